"""Launch work on a CUDA device. Open launch.py first.

=============  ================================================================================
launch.py      loads and launches kernels of CUDA C files
cublas.py      matrix products by cuBLAS
replay.py      records the launches of a step once, and repeats them
transfers.py   copies between host and device that do not make the host wait
probe.py       imports CuPy, and tests that a device computes
=============  ================================================================================
"""
