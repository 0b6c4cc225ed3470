"""Python programs in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 600  # a process that takes longer hangs


def program(
    code: str,
    *arguments: object,
    folder: Path = ROOT,
    flags: Sequence[str] = ("-W", "error"),
    paths: Sequence[Path | str] = (),
    status: int = 0,
    **environment: str | None,
) -> subprocess.CompletedProcess[str]:
    """Run code with xpcap on its path, and see that it ends with a status.

    folder : the working folder
    flags : of Python
    paths : further folders to import from
    environment : variables to set, or with None to take away
    """
    found = [str(ROOT), *map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
    wanted = {**os.environ, "PYTHONPATH": os.pathsep.join(found), **environment}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in wanted.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done
