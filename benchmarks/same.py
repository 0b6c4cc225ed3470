"""Whether two runs are the same run: python -m benchmarks.same RUN OTHER."""

import filecmp
import sys

from xpcap.runs.folder import BEST, HISTORY, LAST


def same(run: str, other: str) -> int:
    """Compare the parameters and the history of two runs, byte by byte."""
    names = BEST, LAST, HISTORY
    _, differing, missing = filecmp.cmpfiles(run, other, names, shallow=False)
    told = [f"{name} differs" for name in differing] + [f"{name} is missing" for name in missing]
    print("; ".join(told) or f"the same bytes: {', '.join(names)}")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(same(*sys.argv[1:]))
