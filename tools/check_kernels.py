"""Run the slow checks of the CUDA kernels, and record the checked files: make kernels-check.

NVRTC compiles the kernels for every architecture, the thread and address sanitizers watch their
launches, and injected mistakes have to be found. The nightly job runs the same tests.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TESTS = "tests/ops/test_nvrtc.py", "tests/ops/test_cpu_build.py"
CHECKED = ROOT / "tests" / "ops" / "checked.sha256"
MAY_SKIP = "does not know sm_"  # reason for an architecture that this compiler does not support


def digests() -> dict[str, str]:
    """The digest of each file with a kernel or its launch."""
    kernels = (ROOT / "xpcap" / "ops" / "cuda").glob("*.cu*")
    launches = (ROOT / "xpcap" / name for name in ("backend/launch.py", "ops/device.py"))
    return {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(
            path.read_text("utf-8").encode()
        ).hexdigest()
        for path in (*sorted(kernels), *launches)
    }


def checked() -> dict[str, str]:
    """The digests for which the tests last passed."""
    lines = CHECKED.read_text("utf-8").splitlines()
    return {file: digest for digest, file in (line.split("  ") for line in lines)}


class Skipped:
    """Collects reasons for skipped tests, except unsupported architectures."""

    def __init__(self) -> None:
        self.reasons: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped and MAY_SKIP not in (reason := report.longrepr[2]):
            self.reasons.add(reason)


def main(options: list[str]) -> int:
    """Run the tests with pytest's options; returns its status, or 1 if tests were skipped."""
    before, skipped = digests(), Skipped()
    status = pytest.main([*options, "-m", "", *(str(ROOT / name) for name in TESTS)], [skipped])
    if not status and not skipped.reasons:
        CHECKED.write_text("".join(f"{digest}  {file}\n" for file, digest in before.items()))
        print(f"all passed: commit {CHECKED}")
        return 0
    for reason in skipped.reasons:
        print(f"{CHECKED} was not updated, since tests were skipped: {reason}")
    return int(status) or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
