"""The startup check: a device's fast code against plain code.

xpcap's kernels, products and recorded steps were only ever tested without a GPU. So before a device
does a kind of work for the first time, fast code computes it `runs` times, and plain code once. If
all results agree, the work runs fast code from then on, and the agreement is stored. If they differ,
or fast code raises an error, a line says so, and the work runs plain code; nothing is stored.
"""

import contextlib
import contextvars
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path

import numpy as np

from xpcap.backend import cublas, probe
from xpcap.backend.plain_code import current_code, plain
from xpcap.backend.switch import Array, is_device_array, to_numpy
from xpcap.errors import BackendError
from xpcap.files.read_write import write_text
from xpcap.progress import say

# Bounds of a tensor's error. A float32 run differs from the float64 run with the same weights by at
# most 4e-6 (12 seeds, both cells), so two float32 runs differ by at most 8e-6; with H 512 and products
# summed in another order it was 3.5e-6 (four seeds, both cells, on a CPU). 3e-5 leaves room for a
# device's exp and tanh, and products in TF32 fail it. float64 rounds 5e8 times finer, so 1e-9 is
# loose, yet anything computed in float32 fails it
TOLERANCE = {"float64": 1e-9, "float32": 3e-5}
REDUCED_TOLERANCE = 1e-2  # if the environment lets cuBLAS or CuPy reduce the precision of products
Results = Mapping[str, Array | float]  # tensors and numbers that some work returns, by name

_codes: dict[tuple[str, ...], str] = {}  # the code chosen for work that was checked, by its key
# True within a check: work that is part of other work is not checked again
_checking = contextvars.ContextVar("xpcap_checking", default=False)


def checked_code(
    work: str,
    dispatch: Sequence[object],
    like: Array,
    compute: Callable[[], Results],
    runs: int = 1,
) -> str:
    """The code to do some work with: that of this thread, or "plain" if the device fails its check.

    Parameters
    ----------
    work : str
        The work's name in the line that is printed, such as ``"training"``.
    dispatch : sequence
        Everything besides the dtype that decides which kernels the work launches.
    like : array
        With the library, device and dtype of the work. On the host nothing is checked.
    compute : callable
        Does the work with the thread's current code; returns its results by name.
    runs : int
        How often fast code computes; each result is compared.

    Returns
    -------
    code : str
        "fast" or "plain".

    Raises
    ------
    BackendError
        Plain code fails as well, as after a CUDA error that ends a process's work on its device.
    MemoryError
        The device has too little memory.
    """
    if not is_device_array(like) or current_code() == "plain" or _checking.get():
        return current_code()
    machine = probe.machine(sys.modules["cupy"], like.data.device_id)
    key = work, *map(str, dispatch), like.dtype.name, sources(), *machine
    if key not in _codes:
        token = _checking.set(True)
        try:
            _codes[key] = "fast" if is_stored(key) else _checked(key, like, compute, runs)
        finally:
            _checking.reset(token)
    return _codes[key]


def computing(code: str) -> AbstractContextManager[None]:
    """A context in which this thread runs the code that `checked_code` returned."""
    return plain() if code == "plain" else contextlib.nullcontext()


def _checked(key: tuple[str, ...], like: Array, compute: Callable[[], Results], runs: int) -> str:
    """Compare the two codes, and print the outcome; the code to go on with."""
    work, *_, device = key
    failure = None
    fast_results = list[dict[str, np.ndarray]]()
    try:
        fast_results += [_on_host(compute()) for _ in range(runs)]
    except MemoryError:
        raise
    except Exception as error:  # of any type: if plain code raises it too, it is the caller's
        failure = error
    try:
        with plain(), probe.restored_reductions(sys.modules["cupy"]):
            expected = _on_host(compute())
    except Exception as error:
        if failure is None or not probe.is_device_error(failure):
            raise
        got = f"fails at {work} ({probe.first_line(failure)}), and so does CuPy alone"
        if probe.first_line(error) != probe.first_line(failure):
            got += f" ({probe.first_line(error)})"
        cause = "an error of CUDA may end all work of a process on its device: start again with"
        cause += " `plain`, or `backend` numpy"
        raise BackendError(f"{device} {got}; {cause}") from failure
    worst, tensor = max(
        (
            (_error(results[name], expected[name]), name)
            for results in fast_results
            for name in expected
        ),
        default=(0.0, ""),
    )
    tolerance = TOLERANCE[like.dtype.name]
    if cublas.reduced_precision((*cublas.REDUCED_PRECISION, "CUPY_TF32")):
        tolerance = REDUCED_TOLERANCE
    if failure is None and worst <= tolerance:
        store(key)
        rounding = f"the largest difference is {worst:.0e}, in {tensor}"
        say(
            f"xpcap: {device}, {work}: CUDA kernels agree with plain code; {rounding}",
            err=True,
        )
        return "fast"
    fault = f"differ from plain code by {worst:.1g} in {tensor}"
    if failure is not None:
        fault = f"fail ({probe.first_line(failure)})"
    say(
        f"xpcap: {device}, {work}: CUDA kernels {fault}; going on with plain code, which is slower."
        " Please run make gpu-check and report it",
        err=True,
    )
    return "plain"


def _on_host(results: Results) -> dict[str, np.ndarray]:
    """Results copied to the host, before the next run overwrites them."""
    return {name: np.array(to_numpy(x), np.float64) for name, x in results.items()}


def _error(x: np.ndarray, expected: np.ndarray) -> float:
    """relative_max_error, infinite instead of NaN; 0 if the expected values are not finite."""
    if x.shape != expected.shape:
        return np.inf
    if not np.isfinite(expected).all():
        return 0.0
    error = relative_max_error(x, expected)
    return np.inf if np.isnan(error) else error


def relative_max_error(x: np.ndarray, y: np.ndarray) -> float:
    """max |x - y| as a share of the largest element of either; 0 where all are zero."""
    if not x.size:
        return 0.0
    largest = max(float(np.abs(x).max()), float(np.abs(y).max()))
    with np.errstate(invalid="ignore"):  # infinities give NaN, which exceeds every tolerance
        return float(np.abs(x - y).max()) / largest if largest else 0.0


# ---- Stored agreements


@functools.cache
def sources() -> str:
    """The digest of all files of a device's fast code: kernels, and the modules that launch them."""
    digest = hashlib.sha256()
    backend, ops = (resources.files(f"xpcap.{name}") for name in ("backend", "ops"))
    for folder in (backend, ops, ops.joinpath("cuda")):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith((".py", ".cu", ".cuh")):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _file(key: tuple[str, ...]) -> Path:
    name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
    return probe.kernel_cache() / f"xpcap-agreement-{name}.txt"


def is_stored(key: tuple[str, ...]) -> bool:
    """True if this machine has stored an agreement on this work, in a file that can be read."""
    try:
        return _file(key).read_text(encoding="utf-8") == "\n".join(key)
    except (OSError, UnicodeDecodeError):
        return False


def store(key: tuple[str, ...]) -> None:
    """Store an agreement in CuPy's kernel cache; if that fails, the next process checks again."""
    with contextlib.suppress(OSError):
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_text(_file(key), "\n".join(key))
