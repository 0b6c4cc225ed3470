"""A busy neighbour: a process that occupies a core, to time a step on a machine that somebody else is using too."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends when its parent does
while True:
    pass
"""


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep one core busy from a process in its own session, because Linux shares processor time between logins, not processes."""
    with subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE, start_new_session=True) as child:
        try:
            yield
        finally:
            child.kill()
