"""Where NumPy was loaded before xpcap: OpenBLAS's idle threads rest as soon as the other way round,
unless somebody else decides.
"""

import sys

import pytest
from programs import program
from threadpoolctl import threadpool_info

from xpcap import threads

pytestmark = pytest.mark.skipif(
    not (
        sys.platform == "linux"
        and [
            library["internal_api"]
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ]
        == ["openblas"]
    ),
    reason="NumPy's BLAS is not OpenBLAS here, or this is not Linux",
)
PROGRAM = """
import ctypes, os, threading
import numpy as np
{before}
from xpcap import threads
from xpcap.threads import blas
from threadpoolctl import threadpool_info

blas()
{after}
library = ctypes.CDLL(threadpool_info()[0]["filepath"])
a = np.arange(90000.0).reshape(300, 300)
assert np.array_equal((a @ np.eye(300)), a)
print(threads.symbol(library, "openblas_thread_timeout")(), os.environ.get(threads.WAIT_VARIABLE))
"""
BUSY = """
end, begun = threading.Event(), threading.Event()
def multiply():
    a = np.ones((400, 400))
    while not end.is_set():
        a @ a
        begun.set()
thread = threading.Thread(target=multiply)
thread.start()
begun.wait()
"""


@pytest.mark.parametrize(
    ("set_to", "before", "after", "shown"),
    [
        (None, "", "", "20 None"),
        ("24", "", "", "24 24"),
        (None, BUSY, "end.set(); thread.join()", "0 None"),
        (
            None,
            "idle = threading.Thread(target=threading.Event().wait, daemon=True); idle.start()",
            "",
            "20 None",
        ),
    ],
    ids=["alone", "variable", "busy thread", "idle thread"],
)
def test_a_blas_that_was_loaded_before_is_told_to_rest_soon(
    set_to: str | None, before: str, after: str, shown: str
) -> None:
    code = PROGRAM.format(before=before, after=after)
    done = program(code, flags=(), paths=sys.path, **{threads.WAIT_VARIABLE: set_to})
    assert done.stdout.strip() == shown


def test_a_thread_that_is_busy_with_python_keeps_nobody_from_computing() -> None:
    """It takes the interpreter's lock whenever that is given away: whoever wants it back must not
    wait for long.
    """
    before = (
        "end = threading.Event()\nthread = threading.Thread(target=lambda: [None for _ in"
        " iter(end.is_set, True)])\nthread.start()"
    )
    code = PROGRAM.format(before=before, after="end.set(); thread.join()")
    done = program(code, flags=(), paths=sys.path, **{threads.WAIT_VARIABLE: None})
    assert done.stdout.strip() in ("20 None", "0 None")
