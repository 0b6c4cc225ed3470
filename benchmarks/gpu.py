"""Versions and paths of a GPU's driver, CUDA libraries and CuPy."""

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from benchmarks.timing import cuda_version, machine
from xpcap.backend import use_backend
from xpcap.backend.cublas import handle
from xpcap.backend.switch import array_module

PACKAGES = ("xpcap", "numpy", "cupy", "cuda-", "nvidia-", "torch", "mpi4py", "pytest")
VARIABLES = ("CUPY_", "CUBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "XPCAP_", "OMP_", "OPENBLAS_", "LD_")
LIBRARIES = ("cuda", "cublas", "cublasLt", "nvrtc")  # cuda: the driver


def libraries() -> str:
    """Print system, commit, packages, environment variables, loaded libraries and the GPU; return GPU
    and versions in a line.

    BackendError : the GPU is not usable.
    """
    print(platform.platform())
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    commit = (done.stdout.strip() if done else "") or "unknown"
    print(f"commit {commit}")
    for name, value in sorted(os.environ.items()):
        if name.startswith(VARIABLES):
            print(f"{name}={value}")
    for package in sorted(metadata.distributions(), key=lambda package: package.name.lower()):
        if package.name.lower().startswith(PACKAGES):
            installer = (package.read_text("INSTALLER") or "unknown").strip()
            print(f"{package.name} {package.version}, installed by {installer}")
    try:
        use_backend("cupy")  # loads the libraries
    finally:
        _print_libraries()
    xp, about = array_module(), machine()
    print(f"cublas {xp.cuda.cublas.getVersion(handle(xp))}, nvrtc {xp.cuda.nvrtc.getVersion()}")
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    return f"{about['gpu']}, driver {about['driver']}, CuPy {about['cupy']}, commit {commit}"


def _print_libraries() -> None:
    try:
        from cuda.pathfinder import find_nvidia_header_directory, load_nvidia_dynamic_lib
    except ImportError:  # CuPy searches for libraries by itself
        print("cuda-pathfinder is missing or old: the paths of the libraries are unknown")
        return
    for name in LIBRARIES:
        try:
            print(f"{name}: {load_nvidia_dynamic_lib(name).abs_path}")
        except (RuntimeError, ValueError) as error:  # missing, broken, or unknown
            print(f"{name}: {type(error).__name__}")
    header = Path(find_nvidia_header_directory("cudart") or "", "cuda_runtime_api.h")
    text = header.read_text(encoding="utf-8", errors="replace") if header.is_file() else ""
    match = re.search(r"#define CUDART_VERSION +(\d+)", text)
    print(f"headers: {f'{header.parent}, {cuda_version(int(match[1]))}' if match else 'not found'}")
