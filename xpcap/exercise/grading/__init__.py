"""Grade a student's layers, captioner, update rules and solver. Open grade.py first.

How wrong arrays become advice:

    arrays -> judge -> search (explain.py) -> localise (mutants.py) tries TABLE (rules.py) by rank
    -> advice

files.py reads what was handed in, cases.py draws inputs, run.py has child.py run probes.py on the
student's functions. expected.py has the reference's side, judge.py compares, explain.py and
mutants.py name mistakes by rules.py; report.py and results.py tell them.
"""

from xpcap.exercise.grading.grade import Report, Result, grade

__all__ = ["Report", "Result", "grade"]
