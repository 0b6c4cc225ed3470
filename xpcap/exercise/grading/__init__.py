"""Grade a student's layers, captioner, update rules and solver. Open grade.py first.

submission.py runs the student's code in a process of its own, child.py is that process; mutants.py
localises what is wrong by changes to the functions of reference/; results.py prints, as a table, as
JSON, for Gradescope, as a page. handout.py makes the files that students start from.
"""

from xpcap.exercise.grading.grade import Result, grade

__all__ = ["Result", "grade"]
