"""Threads of one program that compute with xpcap: the bits of the main thread in any other, alone
or beside another one, whichever library came first, and BLAS as it was.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import program

from xpcap.backend.threads import cores

pytestmark = [
    pytest.mark.threads,
    pytest.mark.skipif(cores() < 2, reason="BLAS has one thread here: there is nothing to share"),
]
PROGRAM = Path(__file__).parent / "helpers" / "threads.py"
# of `make test`; from 3.8 on only the thread that set a limit first may set another
FORMER = Path(sys.prefix) / "threadpoolctl-3.7"


def run(argument: str, former: bool = False) -> dict[str, Any]:
    if former and not FORMER.is_dir():
        pytest.skip("threadpoolctl 3.7 is not beside the installed one, as `make test` puts it")
    code = PROGRAM.read_text(encoding="utf-8")
    found = json.loads(program(code, argument, flags=(), paths=[FORMER] * former).stdout)
    assert found["version"].startswith("3.7" if former else "")
    return found


@pytest.mark.parametrize(("argument", "former"), [("owned", False), ("", True)])
@pytest.mark.slow
def test_any_thread_has_the_bits_of_main_also_beside_another_and_blas_keeps_its_threads(
    argument: str, former: bool
) -> None:
    found = run(argument, former)
    alone = found["main"]
    assert found["thread"] == alone
    assert found["beside"] == {
        f"{name} in {where}": bits for name, bits in alone.items() for where in ("main", "thread")
    }
    assert found["after"] == found["threads"]


@pytest.mark.slow
def test_bits_do_not_depend_on_whether_numpy_or_xpcap_is_imported_first() -> None:
    assert run("first")["main"] == run("alone")["main"]
