"""CS231n's captioning exercise: its functions in plain NumPy, imports, data, handout, grading.

A companion of the library, which none of its rooms imports. Open table.py for the functions,
grading/ for students' code.
"""
