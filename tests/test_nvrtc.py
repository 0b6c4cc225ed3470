"""Every kernel file becomes machine code for every architecture, without a GPU: by NVRTC's wheel, else by nvcc."""

import functools
from typing import NamedTuple

import nvrtc
import pytest
import twin

FILES = twin.files()
UNUSED = 'extern "C" __global__ void f(REAL* x) { int unused; x[0] = 0; }'
WRONG = 'extern "C" __global__ void f(REAL* x) { x[0] = y; }'


class Row(NamedTuple):
    """One kernel, as compiled for one real type and architecture."""

    file: str
    kernel: str
    real: str
    arch: str
    usage: nvrtc.Usage | None  # None: the compiler said nothing of this kernel


@functools.cache
def compiled() -> dict[tuple[str, str, str], nvrtc.Compiled]:
    """Every (file, real type, architecture) that this compiler can do. UnavailableError where there is none."""
    keys = [(path.name, real, arch) for path in FILES for real in twin.REALS for arch in nvrtc.compiler().architectures]
    texts = {path.name: twin.text_of(path) for path in FILES}
    return dict(zip(keys, nvrtc.compile_all((texts[name], real, arch) for name, real, arch in keys), strict=True))


def compile_table() -> list[Row]:
    """What the compiler says of each kernel, real type and architecture."""
    kernels = {path.name: twin.parameters(path) for path in FILES}
    return [Row(name, kernel, real, arch, made.kernels.get(kernel)) for (name, real, arch), made in compiled().items() for kernel in kernels[name]]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        nvrtc.compiler()
    except nvrtc.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("real", twin.REALS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nvrtc_compiles_for_every_architecture_without_a_warning(path, real) -> None:
    made = {arch: compiled()[path.name, real, arch] for arch in nvrtc.compiler().architectures}
    assert {arch: one.warnings for arch, one in made.items() if one.warnings} == {}
    for arch, one in made.items():
        for kernel in twin.parameters(path):
            assert f".text.{kernel}\0".encode() in one.cubin, f"{kernel} is not in the code for {arch}"


def test_nvrtc_knows_every_architecture() -> None:
    missing = set(nvrtc.ARCHITECTURES) - set(nvrtc.compiler().architectures)
    if missing:
        pytest.skip(f"{nvrtc.compiler().name} does not know {', '.join(sorted(missing))}")


def test_nvrtc_finds_no_kernel_short_of_registers() -> None:
    rows = compile_table()
    assert rows
    for row in rows:
        if row.usage is None:
            pytest.skip(f"{nvrtc.compiler().name} does not tell what kernels take")
        assert row.usage.spills == 0, row
        assert row.usage.registers <= 64, row  # 1024 threads of a multiprocessor at least, four blocks of 256
        assert row.usage.shared <= twin.THREADS * 8, row


def test_nvrtc_mistakes_and_warnings_would_be_seen() -> None:
    compiler = nvrtc.compiler()
    with pytest.raises(nvrtc.CompileError, match='identifier "y" is undefined'):
        compiler.compile(WRONG, "float", compiler.architectures[0])
    assert any("unused" in line for line in compiler.compile(UNUSED, "float", compiler.architectures[0]).warnings)
