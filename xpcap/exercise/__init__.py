"""CS231n's captioning exercise: its functions in plain NumPy, imports, data, handout, grading.

Only xpcap.course, xpcap.grading, xpcap.verify and `xpcap verify` import it. Open table.py for the
functions, grading/ for students' code.
"""
