"""Launch work on a CUDA device. Open launch.py first.

=============  ================================================================================
launch.py      loads and launches kernels of CUDA C files
cublas.py      matrix products by cuBLAS
replay.py      records the launches of a step once, and repeats them
transfers.py   copies between host and device that do not make the host wait
probe.py       imports CuPy, and tests that a device computes
=============  ================================================================================
"""

from typing import Any

Array = Any  # a cupy.ndarray; in transfers.py also one of NumPy
