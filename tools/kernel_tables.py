"""Prints what can be measured of the CUDA kernels without a GPU, as the page docs/develop/kernels.md,
which `make site` builds.
"""

import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "ops"))

import cpu_build
import nvrtc
import test_cpu_build
import test_nvrtc


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("|", " | ".join(str(cell) for cell in row), "|")
    print()


def compiles() -> None:
    rows = {
        (row.kernel, row.arch, row.real): row.usage
        for row in test_nvrtc.compile_table(nvrtc.compiler().architectures)
    }
    kernels, arches = (list(dict.fromkeys(key[k] for key in rows)) for k in (0, 1))
    print(
        f"Registers a thread, float32 / float64, as compiled by {nvrtc.compiler().name}; none"
        " spills:\n"
    )

    def cell(kernel: str, arch: str) -> str:
        usages = [rows[kernel, arch, real] for real in cpu_build.REALS]
        assert all(usage is None or usage.spills == 0 for usage in usages)
        return " / ".join("compiled" if usage is None else str(usage.registers) for usage in usages)

    table(
        ["kernel", *arches],
        [[kernel, *(cell(kernel, arch) for arch in arches)] for kernel in kernels],
    )


def arithmetic() -> None:
    rows = test_cpu_build.arithmetic_table()
    print(
        "Worst difference of a device's operation from its equation in float64, relative to an"
        " array's largest value, and the elements of the largest array there, by"
        f" {compiler_version()} on {platform.machine()}:\n"
    )
    body = []
    for op in dict.fromkeys(row.op for row in rows):
        own = [row for row in rows if row.op == op]
        worst = [
            max((row for row in own if row.real == real), key=lambda row: row.error)
            for real in cpu_build.REALS
        ]
        body.append([op, len(own), *(f"{row.error:.1e} ({row.size:,})" for row in worst)])
    table(["operation", "calls", "float32", "float64"], body)


def sanitizer() -> None:
    rows = test_cpu_build.sanitizer_table()
    clean = [(kernel, races) for kernel, mutant, races in rows if not mutant]
    print(
        f"Thread sanitizer: {len(clean)} launches of the kernels as they are,"
        f" {sum(races for _, races in clean)} races. Mutants:\n"
    )
    table(["kernel", "mutant", "races reported"], [row for row in rows if row[1]])


def compiler_version() -> str:
    return (
        "g++ "
        + subprocess.run(
            [cpu_build.compiler(), "-dumpfullversion"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )


HEAD = """\
# Kernels without a card

[Testing without a GPU](testing-without-a-gpu.md) says how this is measured, and what it leaves open.
"""


def main() -> None:
    print(HEAD)
    for title, part in (("Compiled", compiles), ("Arithmetic", arithmetic), ("Races", sanitizer)):
        print(f"## {title}\n")
        try:
            part()
        except (nvrtc.UnavailableError, cpu_build.UnavailableError) as reason:
            print(f"Not done: {reason}\n")


if __name__ == "__main__":
    main()
