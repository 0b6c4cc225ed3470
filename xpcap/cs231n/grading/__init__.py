"""Grade a student's layers, captioner, update rules and solver. Open grade.py first.

files.py reads a submission and cases.py draws inputs. run.py starts child.py, which runs probes.py
on the submission's functions; expected.py runs it on the reference. judge.py compares the arrays. If
they differ, explain.py names the mistake: mutants.py changes the reference by the table of rules.py
until it computes the same wrong arrays. report.py and results.py present the results.
"""

from xpcap.cs231n.grading.grade import Result, grade

__all__ = ["Result", "grade"]
