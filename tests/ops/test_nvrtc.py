"""Every kernel file becomes machine code for every architecture, without a GPU: by NVRTC's wheel.
All at night, and by make kernels-check when a kernel changed; what a kernel takes of one
architecture by day too.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import cpu_build
import nvrtc
import pytest

from xpcap.backend.launch import THREADS

FILES = cpu_build.files()
# Float kernels that add up in double, so that sums over millions of numbers keep their digits
ADD_IN_DOUBLE = {
    kernel
    for path in FILES
    for kernel in cpu_build.parameters(path)
    if cpu_build.reaches(path, kernel, "double")
}
UNUSED = 'extern "C" __global__ void f(REAL* x) { int unused; x[0] = 0; }'
WRONG = 'extern "C" __global__ void f(REAL* x) { x[0] = y; }'


class Row(NamedTuple):
    """One kernel, as compiled for one real type and architecture."""

    file: str
    kernel: str
    real: str
    arch: str
    usage: nvrtc.Usage | None  # None: the compiler said nothing of this kernel


AT_ONCE = {"float": 2, "double": 1}  # blocks of lstm_step.cu
# Of a multiprocessor of the smallest GPU, and the blocks of most kernels that it has room for
REGISTERS, SHARED, BLOCKS = 1 << 16, 1 << 16, 4
FEWER_BLOCKS = {
    **{(f"lstm_step{way}", real): n for way in ("", "_backward") for real, n in AT_ONCE.items()},
    ("attention_sum", "double"): 3,
}


@functools.cache
def compiled(arch: str) -> dict[tuple[str, str], nvrtc.Compiled]:
    """Every (file, real type) for one architecture."""
    keys = [(path, real) for path in FILES for real in cpu_build.REALS]
    made = nvrtc.compile_all((cpu_build.text_of(path), real, arch) for path, real in keys)
    return {(path.name, real): one for (path, real), one in zip(keys, made, strict=True)}


def compile_table(arch: str) -> list[Row]:
    """What the compiler says of each kernel and real type."""
    return [
        Row(path.name, kernel, real, arch, compiled(arch)[path.name, real].kernels.get(kernel))
        for path in FILES
        for real in cpu_build.REALS
        for kernel in cpu_build.parameters(path)
    ]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        nvrtc.library()
    except nvrtc.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=nvrtc.ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    if request.param not in nvrtc.known():
        pytest.skip(f"{nvrtc.name()} does not know {request.param}")
    return request.param


@pytest.mark.nightly
@pytest.mark.parametrize("real", cpu_build.REALS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nvrtc_compiles_for_every_architecture_without_a_warning(
    path: Path, real: str, arch: str
) -> None:
    made = compiled(arch)[path.name, real]
    assert made.warnings == []
    for kernel in cpu_build.parameters(path):
        assert f".text.{kernel}\0".encode() in made.cubin, f"{kernel} is not in the code for {arch}"


@pytest.mark.parametrize(
    "arch",
    ["sm_75", *(pytest.param(arch, marks=pytest.mark.nightly) for arch in nvrtc.ARCHITECTURES)],
    indirect=True,
)
def test_nvrtc_finds_no_kernel_short_of_registers(arch: str) -> None:
    rows = compile_table(arch)
    assert rows
    for row in rows:
        assert row.usage, f"{nvrtc.name()} says nothing of {row}"
        assert row.usage.spills == 0, row
        blocks = FEWER_BLOCKS.get((row.kernel, row.real), BLOCKS)
        granted = -(-row.usage.registers // 8) * 8  # registers come in eights
        assert blocks * THREADS * granted <= REGISTERS, row
        assert blocks * row.usage.shared <= SHARED, row


@pytest.mark.nightly
def test_float_kernels_compute_in_double_only_where_they_add_up_in_it(arch: str) -> None:
    """A GPU for games, and a T4, have one unit for doubles to 32 or 64 for floats."""
    made = compiled(arch)
    counts = {
        real: {k: n for path in FILES for k, n in made[path.name, real].doubles().items()}
        for real in cpu_build.REALS
    }
    assert {kernel for kernel, count in counts["float"].items() if count} == ADD_IN_DOUBLE
    assert "squares" in ADD_IN_DOUBLE
    assert len(counts["float"]) == len(counts["double"]) > 20
    assert counts["double"]["adam_update"] >= 8  # in a double kernel they are seen


@pytest.mark.nightly
def test_nvrtc_mistakes_and_warnings_would_be_seen() -> None:
    arch = nvrtc.known()[0]
    with pytest.raises(nvrtc.CompileError, match='identifier "y" is undefined'):
        nvrtc.compile_one(WRONG, "float", arch)
    assert any("unused" in line for line in nvrtc.compile_one(UNUSED, "float", arch).warnings)
