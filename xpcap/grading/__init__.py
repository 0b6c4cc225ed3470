"""Grade a student's code: `grade`. The code of it is in exercise/grading/.

It stands beside `xpcap.course`, which answers imports of ``cs231n`` from the moment that it is
imported: grading must not.
"""

from xpcap.exercise.grading import Result, grade

__all__ = ["Result", "grade"]
