"""A busy neighbour: what a step takes on a machine that somebody else uses too."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with whoever started it
while True:
    pass
"""


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep one core busy meanwhile, from a process in a session of its own: Linux shares processor time between logins, not processes."""
    with subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE, start_new_session=True) as child:
        try:
            yield
        finally:
            child.kill()
