"""Compiles kernel files to machine code without a GPU, with NVRTC from its PyPI wheel."""

import ctypes
import functools
import importlib.util
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = [f"sm_{number}" for number in (70, 75, 80, 86, 89, 90, 100, 103, 120, 121)]
# The first three are CuPy's; the rest makes ptxas report what a kernel uses
OPTIONS = "-ftz=true --std=c++17 --device-as-default-execution-space -Xptxas -v".split()


class UnavailableError(Exception):
    """No compiler is installed."""


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


@functools.cache
def library() -> ctypes.CDLL:
    """libnvrtc of the newest CUDA among the installed wheels, which put it under
    site-packages/nvidia; else an UnavailableError.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if not found:
        raise UnavailableError("nvidia-cuda-nvrtc is not installed (pip install '.[kernels]')")
    nvrtc = ctypes.CDLL(str(max(found, key=lambda path: int(path.name.split(".")[2]))))
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def compile_all(sources: Iterable[tuple[str, str, str]]) -> list[Compiled]:
    """Compile each (text, real type, architecture), two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda source: compile_one(*source), sources))


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


# ---- NVRTC's C interface


def _check(status: int, log: str = "") -> None:
    if status:
        raise CompileError(f"{library().nvrtcGetErrorString(status).decode()}\n{log}")


@functools.cache
def name() -> str:
    """The compiler with its version."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"NVRTC {major.value}.{minor.value}"


@functools.cache
def known() -> list[str]:
    """The ones of ARCHITECTURES that the compiler supports."""
    count = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(library().nvrtcGetSupportedArchs(numbers))
    return [arch for arch in ARCHITECTURES if int(arch.removeprefix("sm_")) in numbers]


def compile_one(text: str, real: str, arch: str) -> Compiled:
    """A kernel file's text, compiled for a real type and an architecture."""
    options = [option.encode() for option in (*OPTIONS, f"-arch={arch}", f"-DREAL={real}")]
    nvrtc, program = library(), ctypes.c_void_p()
    made = ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None
    _check(nvrtc.nvrtcCreateProgram(*made))
    try:
        given = (ctypes.c_char_p * len(options))(*options)
        status = nvrtc.nvrtcCompileProgram(program, len(options), given)
        log = _bytes("ProgramLog", program).decode(errors="replace")
        _check(status, log)
        return Compiled(_bytes("CUBIN", program), _bytes("PTX", program).decode(), *read_log(log))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, content))
    return content.raw
