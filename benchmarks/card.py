"""What a card runs with, and whether two runs are one: parts of docs/develop/gpu-check.md.

python -m benchmarks.card libraries
python -m benchmarks.card same RUN OTHER
"""

import filecmp
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.timing import machine
from xpcap.backend import use_backend
from xpcap.errors import BackendError
from xpcap.runs.folder import BEST, HISTORY, LAST

PACKAGES = ("xpcap", "numpy", "cupy", "cuda-", "nvidia-", "torch", "mpi4py", "pytest")
VARIABLES = ("CUPY_", "CUBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "XPCAP_", "OMP_", "OPENBLAS_", "LD_")
LIBRARIES = ("cublas", "cublasLt", "nvrtc")


def libraries() -> int:
    """Print system, commit, packages, variables, the libraries that are loaded, and the card."""
    contained = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    print(f"{platform.platform()}, {'in a container' if contained else 'in no container'}")
    commit = _git("describe", "--always", "--dirty") or "unknown"
    print("\n".join([f"commit {commit}", *_git("status", "--short").splitlines()]))
    for name, value in sorted(os.environ.items()):
        if name.startswith(VARIABLES):
            print(f"{name}={value}")
    for package in sorted(metadata.distributions(), key=lambda package: package.name.lower()):
        if package.name.lower().startswith(PACKAGES):
            installer = (package.read_text("INSTALLER") or "unknown").strip()
            print(f"{package.name} {package.version}, installed by {installer}")
    problem = ""
    try:
        use_backend("cupy")  # loads the libraries
    except BackendError as error:
        problem = str(error)
    _print_libraries()
    if problem:
        print(problem)
        return 1
    about = machine()
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(f"{about['card']}, driver {about['driver']}, CuPy {about['cupy']}, commit {commit}")
    return 0


def _git(*words: str) -> str:
    """What git prints about this checkout; nothing where there is none."""
    git, folder = shutil.which("git"), str(Path(__file__).parent)
    if git is None:
        return ""
    return subprocess.run(
        [git, "-C", folder, *words], capture_output=True, text=True
    ).stdout.strip()


def _print_libraries() -> None:
    try:
        from cuda import pathfinder
    except ImportError:  # a CuPy that searches by itself
        print("cuda-pathfinder is not installed: where libraries come from is unknown")
        return
    for name in LIBRARIES:
        try:
            print(f"{name}: {pathfinder.load_nvidia_dynamic_lib(name).abs_path}")
        except RuntimeError as error:  # not there, or broken
            print(f"{name}: {type(error).__name__}")


def same(run: str, other: str) -> int:
    """Compare the parameters and the history of two runs, byte by byte."""
    names = BEST, LAST, HISTORY
    _, differing, missing = filecmp.cmpfiles(run, other, names, shallow=False)
    told = [f"{name} differs" for name in differing] + [f"{name} is missing" for name in missing]
    print("; ".join(told) or f"the same bytes: {', '.join(names)}")
    return int(bool(told))


def main(words: Sequence[str]) -> int:
    """Run the function that the first word names."""
    name, *rest = words
    functions: dict[str, Callable[..., int]] = {"libraries": libraries, "same": same}
    try:
        return functions[name](*rest)
    except BackendError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
