"""NumPy or CuPy, and what a step needs from the machine. Open switch.py first.

==================  ===========================================================================
switch.py           the backend of new arrays, the library of given ones, and copies between them
probe.py            imports CuPy, and tests that a device computes
cuda_problems.py    why a device cannot be used, and what to install
launch.py           loads and launches kernels of CUDA C files
cublas.py           matrix products by cuBLAS
replay.py           records the launches of a step once, and repeats them
transfers.py        copies between host and device that do not make the host wait
selfcheck.py        the startup check: a device's fast code against plain code
plain_code.py       the choice between plain and fast code
threads.py          BLAS's threads, and work divided among cores
memory.py           buffers that steps reuse
shape_specs.py      shapes and dtypes of arguments, written as text
==================  ===========================================================================
"""

from xpcap.backend.switch import (
    Array,
    asarray,
    backend_status,
    get_array_module,
    get_backend,
    is_device_array,
    to_numpy,
    use_backend,
)

__all__ = [
    "Array",
    "asarray",
    "backend_status",
    "get_array_module",
    "get_backend",
    "is_device_array",
    "to_numpy",
    "use_backend",
]
