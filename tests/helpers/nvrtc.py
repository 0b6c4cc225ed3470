"""Compiles kernel files to machine code without a GPU: with NVRTC from its PyPI wheel, else with
nvcc if it is installed.
"""

import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = (
    "sm_70",
    "sm_75",
    "sm_80",
    "sm_86",
    "sm_89",
    "sm_90",
    "sm_100",
    "sm_103",
    "sm_120",
    "sm_121",
)
OPTIONS = (
    "-ftz=true",
    "--std=c++17",
    "-Xptxas",
    "-v",
)  # the first two are CuPy's; the rest makes ptxas report what a kernel uses
FOR_NVRTC = ("--device-as-default-execution-space",)  # CuPy's, too; nvcc has no such option


class UnavailableError(Exception):
    """No compiler is installed; the message says which ones were tried."""


class CompileError(Exception):
    """Compilation failed; the message is the compiler's."""


class Usage(NamedTuple):
    """GPU resources that a kernel uses."""

    registers: int  # per thread
    shared: int  # bytes per block
    spills: int  # bytes of stack frame, spill stores and spill loads


class Compiled(NamedTuple):
    cubin: bytes
    ptx: str
    kernels: dict[str, Usage]
    warnings: list[str]

    def doubles(self) -> dict[str, int]:
        """Instructions of each kernel's PTX on double-precision numbers."""
        _, *entries = re.split(r"\.entry\s+", self.ptx)
        return {
            re.match(r"\w+", entry)[0]: len(re.findall(r"^\s+[^./\s]\S*\.f64\S*\s", entry, re.M))  # type: ignore[index]
            for entry in entries
        }


class Compiler(NamedTuple):
    name: str  # with version
    compile: Callable[[str, str, str], Compiled]  # text, real type, architecture
    architectures: Sequence[str]  # the ones of ARCHITECTURES that it supports


@functools.cache
def compiler() -> Compiler:
    """NVRTC if available, else nvcc, else an UnavailableError."""
    if library := _library():
        nvrtc = _load(library)
        return Compiler(_nvrtc_name(nvrtc), functools.partial(_by_nvrtc, nvrtc), _known(nvrtc))
    if nvcc := shutil.which("nvcc"):
        said = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, check=True
        ).stdout
        listed = subprocess.run(
            [nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
        ).stdout.split()
        name = "nvcc " + re.findall(r"release ([\d.]+)", said)[0]
        return Compiler(
            name,
            functools.partial(_by_nvcc, nvcc),
            [arch for arch in ARCHITECTURES if arch in listed],
        )
    raise UnavailableError(
        "neither the package nvidia-cuda-nvrtc nor nvcc is installed (pip install '.[kernels]')"
    )


def compile_all(sources: Iterable[tuple[str, str, str]]) -> list[Compiled]:
    """Compile each (text, real type, architecture), two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: compiler().compile(*job), sources))


def read_log(log: str) -> tuple[dict[str, Usage], list[str]]:
    """Each kernel's usage as ptxas reports it, and all other lines, which are warnings."""
    usage, warnings, kernel, spills = {}, [], "", 0
    for line in filter(str.strip, log.replace("\0", "").splitlines()):
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            spills = sum(map(int, match.groups()))
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            usage[kernel] = Usage(int(match[1]), int(shared[1]) if shared else 0, spills)
        elif not line.startswith("ptxas info"):
            warnings.append(line)
    return usage, warnings


# ---- NVRTC, through its C interface


def _library() -> Path | None:
    """libnvrtc of the newest CUDA among the installed wheels, which put it under
    site-packages/nvidia.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return max(found, key=lambda path: int(path.name.split(".")[2]), default=None)


def _load(path: Path) -> ctypes.CDLL:
    nvrtc = ctypes.CDLL(str(path))
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def _check(nvrtc: ctypes.CDLL, status: int, log: str = "") -> None:
    if status:
        raise CompileError(f"{nvrtc.nvrtcGetErrorString(status).decode()}\n{log}")


def _nvrtc_name(nvrtc: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"NVRTC {major.value}.{minor.value}"


def _known(nvrtc: ctypes.CDLL) -> list[str]:
    count = ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(nvrtc, nvrtc.nvrtcGetSupportedArchs(numbers))
    return [arch for arch in ARCHITECTURES if int(arch.removeprefix("sm_")) in numbers]


def _by_nvrtc(nvrtc: ctypes.CDLL, text: str, real: str, arch: str) -> Compiled:
    options = [
        option.encode() for option in (*OPTIONS, *FOR_NVRTC, f"-arch={arch}", f"-DREAL={real}")
    ]
    program = ctypes.c_void_p()
    _check(
        nvrtc,
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None),
    )
    try:
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options)
        )
        log = _bytes(nvrtc, "ProgramLog", program).decode(errors="replace")
        _check(nvrtc, status, log)
        ptx = _bytes(nvrtc, "PTX", program).decode()
        return Compiled(_bytes(nvrtc, "CUBIN", program), ptx, *read_log(log))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, content))
    return content.raw


# ---- nvcc


def _by_nvcc(nvcc: str, text: str, real: str, arch: str) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        source, cubin, ptx = (Path(folder, f"kernel.{end}") for end in ("cu", "cubin", "ptx"))
        source.write_text(text, encoding="utf-8")
        options = [*OPTIONS, f"-arch={arch}", f"-DREAL={real}", str(source), "-o"]
        for kind, target in (("-ptx", ptx), ("-cubin", cubin)):
            command = [nvcc, kind, *options, str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompileError(done.stdout + done.stderr)
        log = read_log(done.stdout + done.stderr)  # of ptxas, which makes the cubin
        return Compiled(cubin.read_bytes(), ptx.read_text(encoding="utf-8"), *log)
