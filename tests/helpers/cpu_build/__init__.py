"""The CUDA C kernel files, run on the CPU: built by g++ with shim.h, launched on NumPy arrays, or
checked by the thread sanitizer.

What this shows is arithmetic, indexing and barriers. What it cannot show: launch limits, a GPU's
memory model, its rounding and its speed.
"""

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import platform
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from xpcap.backend import launch
from xpcap.backend.launch import Kernels, Parameter
from xpcap.ops.device import CUDA

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "xpcap" / "ops" / "cuda"
HEADERS = ("shim.h", "fibers.h", "threads.h")
# The kernels in blocks of few threads. The thread sanitizer tells 255 apart, and forgets what happened
# before when there are more
FEW = Kernels("xpcap.ops", {**CUDA.constants, "BACKWARD_UNITS": 8}, threads=32)
# What the files are compiled for, and the arrays that go with it
REALS = {"float": np.float32, "double": np.float64}
FLAGS = "-std=c++17 -U_FORTIFY_SOURCE -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas".split()
FLAGS += ["-Wno-unused-function"]
PLAIN = "-O2 -fvisibility=hidden -fPIC -shared -Wl,-z,defs".split()
# As a GPU rounds: a product and a sum at once, and in float32 no denormal numbers
ROUNDING_OF_A_GPU = {
    "float": [*PLAIN, "-mfma", "-ffp-contract=fast", "-DCPU_BUILD_FTZ"],
    "double": [*PLAIN, "-mfma", "-ffp-contract=fast"],
}
SANITIZED = ["-O1", "-g", "-fsanitize=thread", "-DCPU_BUILD_THREADS"]
ADDRESSED = ["-O1", "-g", "-fsanitize=address", "-DCPU_BUILD_THREADS"]


class UnavailableError(Exception):
    """This machine cannot do it; the message says why."""


@contextlib.contextmanager
def or_skip() -> Iterator[None]:
    """Skip the test if this machine cannot do what is inside the ``with``."""
    try:
        yield
    except UnavailableError as reason:
        pytest.skip(str(reason))


class Launch(NamedTuple):
    """A launch of a kernel of a text, built for a real type, and its arguments before it."""

    source: str
    real: str
    kernel: str
    grid: "Size"
    block: "Size"
    args: list[Any]


class Report(NamedTuple):
    """What the thread sanitizer said of one launch: the number of races, its own text, and the
    arguments as the launch left them.
    """

    races: int
    text: str
    args: list[Any]


# ---- reading the kernel text

DTYPES = {"int": np.int32, "long long": np.int64, "unsigned char": np.uint8, **REALS}


def files() -> list[Path]:
    """Every kernel file."""
    return sorted(KERNELS.glob("*.cu"))


def text_of(source: Path | str) -> str:
    """The text of a kernel file as it is compiled; text itself is passed on."""
    return CUDA.source(source.stem) if isinstance(source, Path) else source


def _bare(text: str) -> str:
    """The text with blanks for comments and launch bounds."""
    hidden = r"//[^\n]*|/\*.*?\*/|__launch_bounds__\(.*?\)"
    return re.sub(hidden, lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.S)


def functions(text: str) -> dict[str, tuple[int, int]]:
    """Start and end of the body of each function of a kernel file, without its braces."""
    bare, found = _bare(text), {}
    for match in re.finditer(r"^\w[^\n;{}#]*?(\w+)\s*\([^;{}]*\)\s*\{", bare, flags=re.M):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(bare[end], 0)
            end += 1
        found[match[1]] = match.end(), end - 1
    return found


@functools.cache
def parameters(source: Path | str) -> Mapping[str, tuple[Parameter, ...]]:
    """The kernels of a file (or of its text), and what each takes, as launches are packed for."""
    text = text_of(source)
    return {name: launch.parameters(text, name, "real") for name in launch.signatures(text)}


@functools.cache
def _called(source: Path | str) -> Mapping[str, set[str]]:
    """The words in each function of a file: what it may call among them."""
    text = _bare(text_of(source))
    return {
        name: {*re.findall(r"\w+", text[start:end])}
        for name, (start, end) in functions(text).items()
    }


def reaches(source: Path | str, function: str, word: str) -> bool:
    """Whether a function of a file has a word in it, or in what it calls."""
    words, seen, ahead = _called(source), set(), {function}
    while ahead:
        seen |= ahead
        ahead = set().union(*(words.get(name, set()) for name in ahead)) - seen
    return word in seen


# ---- building


@functools.cache
def compiler() -> str:
    """g++, or UnavailableError."""
    found = shutil.which("g++")
    if not found or not sys.platform.startswith("linux"):
        raise UnavailableError("the CPU build of the CUDA kernels needs Linux, and g++ on the PATH")
    return found


@functools.cache
def cache_folder() -> Path:
    """Where built files stay between runs: a folder that this user alone can write to."""
    folder = Path(tempfile.gettempdir()) / f"xpcap-cpu-builds-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="xpcap-cpu-builds-"))
    return folder


def _program(source: Path | str) -> str:
    """The kernel text as C++: the shim before it, shared arrays in the shim's words, and a launcher
    for each kernel behind it.
    """
    text = re.sub(r"__shared__\s+(\w+)\s+(\w+)\[(\w+)\];", r"SHARED(\1, \2, \3);", text_of(source))
    if "__shared__" in _bare(text):
        raise ValueError(
            "cpu_build: a __shared__ array that does not read __shared__ TYPE NAME[COUNT];"
        )
    launchers = []
    for name, wanted in parameters(source).items():
        barriers = str(reaches(source, name, "__syncthreads")).lower()
        arguments = (
            f"argument<{p.type}{'*' * p.pointer}>(slots, {k})" for k, p in enumerate(wanted)
        )
        types = (f"{'const ' * p.const}{p.type}{'*' * p.pointer}" for p in wanted)
        launchers.append(
            f"static_assert(std::is_same_v<decltype(&{name}), void (*)({', '.join(types)})>);"
        )
        launchers.append(f"LAUNCHER({name}, {barriers}, {', '.join(arguments)})")
    lines = "\n".join(launchers)
    return f"""#include "shim.h"
#line 1 "kernel.cu"
{text}
#line 1 "launchers"
#ifdef CPU_BUILD_THREADS
static void call(const char* kernel) {{
{lines}
}}
#else
{lines}
#endif
"""


def _built(source: Path | str, real: str, flags: list[str]) -> Path:
    """The built file for this text, type and flags, made where the cache has none."""
    program = _program(source)
    headers = [(HERE / name).read_text(encoding="utf-8") for name in HEADERS]
    command = [compiler(), *FLAGS, *flags, f"-DREAL={real}", "-x", "c++", "-"]
    parts = program, *headers, *command, platform.machine(), _version()
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    target = cache_folder() / f"{key[:32]}.bin"
    with _locked(target.with_suffix(".lock")):  # another process may be at it
        if not (target.exists() and target.with_suffix(".log").exists()):
            _compile(command, program, target)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is between entering and leaving this."""
    import fcntl  # not on Windows, where nothing is built

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(command: list[str], program: str, target: Path) -> None:
    """Put the built file in its place, whole, and what the compiler said beside it."""
    handle, draft = tempfile.mkstemp(dir=target.parent)
    os.close(handle)
    command = [*command, f"-I{HERE}", "-o", draft]
    done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
    if done.returncode:
        Path(draft).unlink()
        if "cannot find" in done.stderr and ("tsan" in done.stderr or "asan" in done.stderr):
            raise UnavailableError(
                f"g++ lacks a sanitizer's library: {done.stderr.strip().splitlines()[0]}"
            )
        raise ValueError(f"cpu_build: g++ refuses the kernel:\n{done.stderr}")
    Path(draft).chmod(0o700)
    target.with_suffix(".log").write_text(done.stderr, encoding="utf-8")
    Path(draft).replace(target)


@functools.cache
def _version() -> str:
    command = [compiler(), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---- launching

FAULTS = {
    1: "more shared memory than a block can have",
    2: "a barrier that some threads of the block do not reach",
    3: "a barrier where the text seemed to have none",
}
Size = Sequence[int]
_THREE = ctypes.c_uint * 3


class CpuBuild:
    """One kernel file, built for one real type ("float" or "double") and loaded; its kernels can be
    launched on NumPy arrays. Arithmetic rounds as plain C++ does, or as on a GPU.
    """

    def __init__(self, source: Path | str, real: str, as_gpu: bool = False) -> None:
        self.source, self.real = source, real
        self.parameters = parameters(source)
        if as_gpu and platform.machine() not in ("x86_64", "AMD64"):
            raise UnavailableError(f"no flags for the roundings of a GPU on {platform.machine()}")
        built = _built(source, real, ROUNDING_OF_A_GPU[real] if as_gpu else PLAIN)
        self.warnings = built.with_suffix(".log").read_text(encoding="utf-8")
        # Holds the interpreter's lock: a launch is not reentrant
        library = ctypes.PyDLL(str(built))
        self.launchers = {name: library[f"launch_{name}"] for name in self.parameters}

    def launch(
        self, name: str, grid: Size, block: Size, args: Sequence[Any], seed: int = 0
    ) -> None:
        """Run kernel `name`, writing to its arrays. `seed` above 0 shuffles the order in which
        blocks and threads run.

        TypeError : an array is not of the type that the kernel takes
        RuntimeError : some threads miss a barrier
        """
        slots, _ = pack(self.parameters[name], self.real, name, args)
        sizes = (_THREE(*size) for size in _sizes(name, grid, block))
        if fault := self.launchers[name](*sizes, seed, slots):
            raise RuntimeError(f"{name}: {FAULTS[fault]}")


@functools.cache
def build(source: Path | str, real: str, as_gpu: bool = False) -> CpuBuild:
    """A kernel file, by its path or as text, for one real type ("float" or "double"). Built once:
    later calls find it.
    """
    return CpuBuild(source, real, as_gpu)


def _sizes(name: str, grid: Size, block: Size) -> tuple[Size, Size]:
    """Grid and block as three numbers each; ValueError if a GPU does not launch them."""
    sizes = (*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
    limits = 2**31 - 1, 65535, 65535, 1024, 1024, 64
    fits = all(1 <= n <= most for n, most in zip(sizes, limits, strict=True))
    if not fits or max(len(grid), len(block)) > 3 or math.prod(block) > 1024:
        raise ValueError(f"{name}: grid {grid} of blocks {block}, which a GPU does not launch")
    return sizes[:3], sizes[3:]


def dtype_of(parameter: Parameter, real: str) -> np.dtype:
    """The dtype of a parameter of a kernel that is built for `real`; of a pointer that of an
    address.
    """
    type_ = real if parameter.type == "real" else parameter.type
    return np.dtype(np.uint64 if parameter.pointer else DTYPES[type_])


def pack(
    wanted: tuple[Parameter, ...], real: str, name: str, args: Sequence[Any]
) -> tuple[bytes, list[np.ndarray]]:
    """Arguments as eight bytes each, and the arrays among them, each C-contiguous.

    TypeError : an array is not of the pointer's type; bool passes for unsigned char
    """
    layout, values, arrays = "<", list[Any](), list[np.ndarray]()
    for p, arg in zip(wanted, args, strict=True):
        type_ = real if p.type == "real" else p.type
        if not p.pointer:
            layout += launch.SLOTS[type_]
            values.append(arg.item())
            continue
        if arg.dtype != DTYPES[type_] and (type_, arg.dtype) != ("unsigned char", bool):
            raise TypeError(f"{name}: {p.name} has dtype {arg.dtype}, expected {type_}")
        layout += "Q"
        values.append(arg.__array_interface__["data"][0])
        arrays.append(arg)
    return struct.pack(layout, *values), arrays


# ---- the sanitizers


def sanitize(
    source: Path | str, real: str, name: str, grid: Size, block: Size, args: Sequence[Any]
) -> Report:
    """One launch with an OS thread for each CUDA thread, under the thread sanitizer. The arrays
    given stay as they are; the report has copies.

    An array given twice is one buffer. Raises UnavailableError where the sanitizer does not run
    here.
    """
    launch, distinct, numbers = _launch(parameters(source)[name], real, name, grid, block, args)
    done = run_sanitized([str(_built(source, real, SANITIZED)), name], launch)
    text = done.stderr.decode(errors="replace")
    races = text.count("WARNING: ThreadSanitizer: data race")
    _check(name, done.returncode, races > 0, text)
    after, start = [], 0
    for a in distinct:
        after.append(np.frombuffer(done.stdout[start : start + a.nbytes], a.dtype).reshape(a.shape))
        start += a.nbytes
    left = [arg if k < 0 else after[k] for arg, k in zip(args, numbers, strict=True)]
    return Report(races, text, left)


def _check(name: str, status: int, is_found: bool, text: str) -> None:
    """RuntimeError : a sanitized launch ended by something else than what it found."""
    if status != (66 if is_found else 0):
        raise RuntimeError(f"{name}: the sanitized launch failed with status {status}:\n{text}")


def beyond(
    source: Path | str, real: str, name: str, grid: Size, block: Size, args: Sequence[Any]
) -> str:
    """What the address sanitizer says of one launch; "" where all accesses lie inside the arrays.
    The arrays given stay as they are.
    """
    launch, _, _ = _launch(parameters(source)[name], real, name, grid, block, args)
    command = [str(_built(source, real, ADDRESSED)), name]
    done = _run(command, launch, ASAN_OPTIONS="detect_leaks=0:exitcode=66")
    text = done.stderr.decode(errors="replace")
    _check(name, done.returncode, "ERROR: AddressSanitizer" in text, text)
    return text if done.returncode else ""


def _launch(
    wanted: Sequence[Parameter], real: str, name: str, grid: Size, block: Size, args: Sequence[Any]
) -> tuple[bytes, list[np.ndarray], list[int]]:
    """A launch as threads.h reads it, its distinct arrays, and for each argument the number of its
    array, or -1.
    """
    slots, arrays = pack(tuple(wanted), real, name, args)
    distinct = list({id(a): a for a in arrays}.values())
    numbers = [
        next(k for k, a in enumerate(distinct) if a is arg) if p.pointer else -1
        for p, arg in zip(wanted, args, strict=True)
    ]
    grid, block = _sizes(name, grid, block)
    parts = [struct.pack("<3I3Iq", *grid, *block, len(distinct))]
    parts += [struct.pack("<q", a.nbytes) + a.tobytes() for a in distinct]
    parts += [struct.pack("<q", len(wanted))]
    parts += [struct.pack("<q", k) + slots[8 * j : 8 * j + 8] for j, k in enumerate(numbers)]
    return b"".join(parts), distinct, numbers


def _run(
    command: list[str], stdin: bytes, **variables: str
) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, input=stdin, capture_output=True, env=environment, timeout=120, check=False
    )


def run_sanitized(command: list[str], stdin: bytes) -> "subprocess.CompletedProcess[bytes]":
    """Run it; where the sanitizer cannot place its memory, once more without the randomisation of
    addresses.
    """
    options = "exitcode=66 report_thread_leaks=0 history_size=2"
    for prefix in ([], [shutil.which("setarch") or "setarch", platform.machine(), "-R"]):
        try:
            done = _run([*prefix, *command], stdin, TSAN_OPTIONS=options)
        except FileNotFoundError:  # no setarch
            break
        if b"unexpected memory mapping" not in done.stderr and not done.stderr.startswith(
            b"setarch"
        ):
            return done
    first = done.stderr.decode(errors="replace").strip().splitlines()[0]
    raise UnavailableError(f"the thread sanitizer does not start here ({first})")
