"""Ending a training when asked to: signals are noted, and heard where training can be saved."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and is saved.

    Attributes
    ----------
    signal : the signal that asked. iteration, epoch : steps and epochs done by then
    """

    def __init__(self, signum: int, iteration: int, epoch: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after iteration {iteration}, and saved")
        self.signal, self.iteration, self.epoch = signum, iteration, epoch


class StopRequest:
    """While it is entered, SIGINT and SIGTERM do not end the process but set `signal`; the second SIGINT ends it at once, as if not caught.

    Only the main thread hears signals, so anywhere else this does nothing; nor to a signal that the process was told to ignore.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for asked in ASKED:
                if signal.getsignal(asked) is not signal.SIG_IGN:
                    self._before[asked] = signal.signal(asked, self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for asked, handler in self._before.items():
            signal.signal(asked, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.signal is None:
            self.signal = signum
            _tell(f"\n{signal.Signals(signum).name}: finishing this step and saving it; Ctrl-C leaves at once\n")


def _tell(line: str) -> None:
    """Write to standard error without touching what the signal may have interrupted."""
    try:
        os.write(2, line.encode())
    except OSError:
        return  # nobody is there to read it
