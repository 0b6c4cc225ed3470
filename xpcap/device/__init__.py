"""Work on a CUDA device, whatever it computes. Open launch.py first.

=============  ================================================================================
launch.py      kernels of CUDA C files: loaded, checked, launched
cublas.py      matrix products
replay.py      work recorded once, and repeated launch by launch
transfers.py   copies between host and device that do not stop the host
probe.py       CuPy, and the proof that a device computes
=============  ================================================================================
"""

from typing import Any

Array = Any  # a cupy.ndarray; in transfers.py also one of NumPy
