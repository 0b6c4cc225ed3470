"""Threads of one program that compute with xpcap: the bits of the main thread in any other, alone
or beside another one, whichever library came first, and BLAS as it was.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import HANG_SECONDS

from xpcap.threads import cores

pytestmark = [
    pytest.mark.threads,
    pytest.mark.skipif(cores() < 2, reason="BLAS has one thread here: there is nothing to share"),
]
ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests" / "helpers" / "threads.py"
FORMER = (
    Path(sys.prefix) / "threadpoolctl-3.7"
)  # of `make test`; from 3.8 on only the thread that set a limit first may set another


def run(version: str, *arguments: str) -> dict[str, Any]:
    if version == "3.7" and not FORMER.is_dir():
        pytest.skip("threadpoolctl 3.7 is not beside the installed one, as `make test` puts it")
    path = os.pathsep.join([*([str(FORMER)] if version == "3.7" else []), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    shown = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_SECONDS,
    ).stdout
    found: dict[str, Any] = json.loads(shown)
    assert found["version"].startswith(version if version == "3.7" else "")
    return found


@pytest.mark.parametrize(
    ("version", "arguments"),
    [
        ("installed", ["owned"]),
        ("3.7", []),
        pytest.param("installed", [], marks=pytest.mark.slow),
        pytest.param("3.7", ["owned"], marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@pytest.mark.slow
def test_any_thread_has_the_bits_of_main_also_beside_another_and_blas_keeps_its_threads(
    version: str, arguments: list[str]
) -> None:
    found = run(version, *arguments)
    alone = found["main"]
    assert found["thread"] == alone
    assert found["beside"] == {
        f"{name} in {where}": bits for name, bits in alone.items() for where in ("main", "thread")
    }
    assert found["after"] == found["threads"]


@pytest.mark.slow
def test_bits_do_not_depend_on_whether_numpy_or_xpcap_is_imported_first() -> None:
    assert run("installed", "first")["main"] == run("installed", "alone")["main"]
