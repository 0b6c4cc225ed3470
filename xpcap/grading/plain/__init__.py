"""The course's files in plain NumPy, one line an equation. Open rnn_layers.py first.

No packing, no buffers, no kernels: what a student reads first, what `verify --against` holds a
student's functions against, and what stands in for the course's own files where a submission
imports them and does not bring them.
"""
