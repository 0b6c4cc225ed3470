"""Check the CUDA kernels by what takes minutes, and write down which files were checked: make kernels-check.

NVRTC compiles them for every architecture, the thread and address sanitizers watch their launches,
and mistakes that are put into them have to be found. Nights run the same tests.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TESTS = "tests/ops/test_nvrtc.py", "tests/ops/test_cpu_build.py"
CHECKED = ROOT / "tests" / "ops" / "checked.sha256"
MAY_SKIP = "does not know sm_"  # an architecture that the compiler is too new, or too old, for


def digests() -> dict[str, str]:
    """By file that a kernel or its launch is in, the digest of its text."""
    kernels = (ROOT / "xpcap" / "ops" / "cuda").glob("*.cu*")
    launches = (ROOT / "xpcap" / name for name in ("device/launch.py", "ops/device.py"))
    return {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(
            path.read_text("utf-8").encode()
        ).hexdigest()
        for path in (*sorted(kernels), *launches)
    }


def checked() -> dict[str, str]:
    """The same, as it was when the tests last passed."""
    lines = CHECKED.read_text("utf-8").splitlines()
    return {file: digest for digest, file in (line.split("  ") for line in lines)}


class Skipped:
    """Why tests were skipped, other than for an architecture."""

    def __init__(self) -> None:
        self.reasons: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped and MAY_SKIP not in (reason := report.longrepr[2]):
            self.reasons.add(reason)


def main(options: list[str]) -> int:
    """Run the tests with pytest's options; its status, or 1 if not all was checked."""
    before, skipped = digests(), Skipped()
    status = pytest.main([*options, "-m", "", *(str(ROOT / name) for name in TESTS)], [skipped])
    if not status and not skipped.reasons:
        CHECKED.write_text("".join(f"{digest}  {file}\n" for file, digest in before.items()))
        print(f"all passed: commit {CHECKED}")
        return 0
    for reason in skipped.reasons:
        print(f"{CHECKED} stays as it was, for tests were skipped: {reason}")
    return int(status) or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
