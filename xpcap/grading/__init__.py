"""Grade a student's code with `grade`. The code is in exercise/grading/.

`grade` is not in `xpcap.course`, since importing that redirects imports of ``cs231n`` to xpcap.
"""

from xpcap.exercise.grading import Result, grade

__all__ = ["Result", "grade"]
