"""The course's files in plain NumPy, one line an equation. Open rnn_layers.py first.

No packing, no buffers, no kernels: what a student reads first, what a student's functions are
graded against, and what stands in for the course's own files that a submission imports and does not
bring.
"""
