"""CS231n's captioning exercise: its functions in plain NumPy, imports, data, handout, grading.

In the package, only `xpcap verify` imports it. Open table.py for the functions, course.py for the
course's imports, grading/ for students' code, and verify/ for the published numbers.
"""
