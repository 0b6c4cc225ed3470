"""Every kernel file becomes machine code for every architecture, without a GPU: by NVRTC's wheel,
else by nvcc. At night, and by make kernels-check when a kernel changed.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cpu_build
import nvrtc
import pytest

from xpcap.device.launch import THREADS

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
pytestmark = pytest.mark.nightly


class Row(NamedTuple):
    """One kernel, as compiled for one real type and architecture."""

    file: str
    kernel: str
    real: str
    arch: str
    usage: nvrtc.Usage | None  # None: the compiler said nothing of this kernel


def limits(row: Row) -> tuple[int, int]:
    """Registers and bytes of shared memory a thread, with which a multiprocessor has room for four
    blocks.

    It has room for three of attention_sum in double, and for two of lstm_step.cu, or one in double.
    """
    if row.file == "lstm_step.cu":
        return (128, 17 * 4) if row.real == "float" else (255, 17 * 8)
    if row.file == "choosing.cu":
        return 64, 24
    if row.file == "attention.cu":
        return (80 if (row.kernel, row.real) == ("attention_sum", "double") else 64), 64
    return 64, 8


@functools.cache
def compiled(arch: str) -> dict[tuple[str, str], nvrtc.Compiled]:
    """Every (file, real type) for one architecture."""
    keys = [(path, real) for path in FILES for real in cpu_build.REALS]
    made = nvrtc.compile_all((cpu_build.text_of(path), real, arch) for path, real in keys)
    return {(path.name, real): one for (path, real), one in zip(keys, made, strict=True)}


def compile_table(architectures: Sequence[str]) -> list[Row]:
    """What the compiler says of each kernel, real type and architecture."""
    return [
        Row(path.name, kernel, real, arch, compiled(arch)[path.name, real].kernels.get(kernel))
        for path in FILES
        for real in cpu_build.REALS
        for arch in architectures
        for kernel in cpu_build.parameters(path)
    ]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        nvrtc.compiler()
    except nvrtc.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=nvrtc.ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    if request.param not in nvrtc.compiler().architectures:
        pytest.skip(f"{nvrtc.compiler().name} does not know {request.param}")
    return request.param


@pytest.mark.parametrize("real", cpu_build.REALS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nvrtc_compiles_for_every_architecture_without_a_warning(
    path: Path, real: str, arch: str
) -> None:
    made = compiled(arch)[path.name, real]
    assert made.warnings == []
    for kernel in cpu_build.parameters(path):
        assert f".text.{kernel}\0".encode() in made.cubin, f"{kernel} is not in the code for {arch}"


def test_nvrtc_finds_no_kernel_short_of_registers(arch: str) -> None:
    rows = compile_table([arch])
    assert rows
    for row in rows:
        if row.usage is None:
            pytest.skip(f"{nvrtc.compiler().name} does not tell what kernels take")
        assert row.usage.spills == 0, row
        registers, shared = limits(row)
        assert row.usage.registers <= registers, row
        assert row.usage.shared <= THREADS * shared, row


def test_float_kernels_compute_in_double_only_where_they_add_up_in_it(arch: str) -> None:
    """A card for games, and a T4, have one unit for doubles to 32 or 64 for floats."""
    made = compiled(arch)
    counts = {
        real: {k: n for path in FILES for k, n in made[path.name, real].doubles().items()}
        for real in cpu_build.REALS
    }
    assert {kernel for kernel, count in counts["float"].items() if count} == ADD_IN_DOUBLE
    assert "squares" in ADD_IN_DOUBLE
    assert len(counts["float"]) == len(counts["double"]) > 20
    assert counts["double"]["adam_update"] >= 8  # in a double kernel they are seen


def test_nvrtc_mistakes_and_warnings_would_be_seen() -> None:
    compiler = nvrtc.compiler()
    with pytest.raises(nvrtc.CompileError, match='identifier "y" is undefined'):
        compiler.compile(WRONG, "float", compiler.architectures[0])
    assert any(
        "unused" in line
        for line in compiler.compile(UNUSED, "float", compiler.architectures[0]).warnings
    )
