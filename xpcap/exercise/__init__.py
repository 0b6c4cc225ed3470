"""CS231n's captioning exercise: its functions in plain NumPy, published numbers, data, grading.

A companion of the library, which none of its rooms imports. Open verify.py above for the published
numbers, grading/ for students' code.
"""
