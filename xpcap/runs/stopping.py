"""Stopping on a signal: it is noted when it comes, and acted on where training can be saved."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked training to stop, and it is saved.

    Attributes
    ----------
    signal : number of the signal
    iteration, epoch : steps and epochs done by then
    """

    def __init__(self, signum: int, iteration: int, epoch: int) -> None:
        super().__init__(signum, iteration, epoch)
        self.signal, self.iteration, self.epoch = signum, iteration, epoch

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signal).name} after iteration {self.iteration}, and saved"


class StopRequest:
    """While entered, SIGINT and SIGTERM set `signal` instead of ending the process; a second SIGINT ends it at once, as if not caught.

    Python delivers signals to the main thread only, so on another thread this does nothing. A signal that the process ignores stays ignored.

    Parameters
    ----------
    speaks : says on standard error that the signal has come
    """

    def __init__(self, speaks: bool = True) -> None:
        self.signal: int | None = None
        self._speaks = speaks
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for asked in ASKED:
                if signal.getsignal(asked) is not signal.SIG_IGN:
                    self._before[asked] = signal.signal(asked, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for asked, handler in self._before.items():
            signal.signal(asked, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.signal is None:
            self.signal = signum
            if self._speaks:
                _say(f"\n{signal.Signals(signum).name}: finishing this step and saving; Ctrl-C again exits at once\n")


def _say(line: str) -> None:
    """Write to standard error, past buffers that the signal may have interrupted."""
    try:
        os.write(2, line.encode())
    except OSError:
        return  # standard error is closed
