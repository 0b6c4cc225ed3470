"""The command group: errors become one message in terms of options, and an exit status.

Of several processes of a launcher, rank 0 prints. A rank that fails alone prints too, and ends
all.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from xpcap import __version__
from xpcap.cli.shared import SHARED, in_flags
from xpcap.device.probe import first_line, is_device_error
from xpcap.distributed import RankDone, abort, launcher_rank
from xpcap.errors import EXPECTED, OptionError, unknown
from xpcap.files import NO_ROOM, write_advice
from xpcap.report import escape_control
from xpcap.runs.saver import STOP_SIGNALS

LONGEST_MESSAGE = 4000  # characters
GRACE = 2.0  # seconds that a rank which fails leaves rank 0 to report the same failure
STOPPED = [128 + signum for signum in STOP_SIGNALS]  # exit statuses: every rank exits by itself
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}  # of descriptors 0, 1 and 2
ANEW = "; the same command starts from the beginning"
GPU_ADVICE = (
    "--backend numpy computes on the CPU, and --plain on the GPU without xpcap's own kernels; make"
    " gpu-check finds the cause"
)
PIPE_CLOSED = 128 + 13  # exit status of a program that SIGPIPE ends; Windows has no such signal


class Terminated(KeyboardInterrupt):
    """A stop by SIGTERM or SIGHUP, which ends a command as Ctrl-C does."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signal = signum


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise Terminated, unless the process ignores or handles them."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Terminated(signum)

    default_signals = []
    if threading.current_thread() is threading.main_thread():  # of others, none can handle them
        default_signals = [
            signum for signum in STOP_SIGNALS if signal.getsignal(signum) is signal.SIG_DFL
        ]
    for signum in default_signals:
        signal.signal(signum, interrupt)
    try:
        yield
    finally:
        for signum in default_signals:
            signal.signal(signum, signal.SIG_DFL)


def open_missing_streams() -> None:
    """Give a process without stdin, stdout or stderr null ones: its output is lost, and no more.

    Their descriptors come first. A file of ours that got one would receive all that C libraries
    print.
    """
    for descriptor, (name, mode) in enumerate(STREAMS.items()):
        try:
            os.fstat(descriptor)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so the same
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


class Commands(click.Group):
    """A group that prints errors the user can mend without a traceback, and suggests near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(str(unknown("", "command", args[0], self.commands)), ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if launcher_rank()[0] and name not in SHARED:
            raise RankDone
        return name, command, rest

    def main(self, *args: Any, **options: Any) -> Any:
        open_missing_streams()
        rank, size = launcher_rank()
        if size == 1:
            with signals_as_interrupts():
                return super().main(*args, **options)
        with (
            open(os.devnull, "w") as nowhere,  # noqa: PTH123
            contextlib.redirect_stdout(nowhere) if rank else contextlib.nullcontext(),
        ):
            try:
                return super().main(*args, **options)
            except SystemExit as exit_request:
                if exit_request.code not in (0, None, *STOPPED):
                    abort(exit_request.code if isinstance(exit_request.code, int) else 1)
                raise
            except Exception:
                sys.excepthook(*sys.exc_info())
                abort(1)
                raise

    def invoke(self, ctx: click.Context) -> Any:
        rank, size = launcher_rank()
        try:
            return self._invoke(ctx)
        except RankDone:
            return None
        except click.ClickException:
            if rank:
                time.sleep(GRACE)  # if rank 0 fails too, it ends this one meanwhile
                click.echo(f"rank {rank} of {size}:", err=True)
            raise

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(self._message(ctx, error)) from error
        except EXPECTED as error:
            raise click.ClickException(self._message(ctx, error)) from error
        except MemoryError as error:
            raise click.ClickException(
                f"{ctx.invoked_subcommand}: out of memory ({error}); choose smaller sizes, or"
                " smaller data"
            ) from error
        except KeyboardInterrupt as interrupt:
            state = escape_control(_state(interrupt))
            click.echo(f"{ctx.invoked_subcommand}: interrupted; {state}", err=True)
            ctx.exit(128 + getattr(interrupt, "signal", signal.SIGINT))
        except BrokenPipeError:
            leave_closed_pipe()
            ctx.exit(PIPE_CLOSED)
        except OSError as error:
            raise click.ClickException(f"{ctx.invoked_subcommand}: {_of_files(error)}") from error
        except Exception as error:
            if not is_device_error(error):
                raise
            message = (
                f"{ctx.invoked_subcommand}: the GPU fails ({first_line(error)}); {_state(error)}"
            )
            raise click.ClickException(escape_control(f"{message}; {GPU_ADVICE}")) from error

    def _message(self, ctx: click.Context, error: Exception) -> str:
        # With train's options, since a run may need more training before it can be used
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        params = [*self.commands["train"].params, *(command.params if command else [])]
        return shown(error, params)


def _of_files(error: OSError) -> str:
    """The message of a file that cannot be read or written, with what to do."""
    file, reason = os.fsdecode(error.filename or ""), error.strerror or str(error)
    if error.errno not in NO_ROOM:
        advice = "expected a file that can be read or written; check the path and its permissions"
        advice += f"; {_state(error)}" if hasattr(error, "__notes__") else ""
    elif file:
        advice = f"{write_advice(error, Path(file).parent)}; {_state(error, ANEW)}"
    else:
        file = "standard output"
        advice = f"expected room on the disk that it is redirected to; {_state(error, ANEW)}"
    return escape_control(f"{file}: {reason}, {advice}" if file else f"{reason}, {advice}")


def _state(error: BaseException, remedy: str = "") -> str:
    """State of the disk after a command was stopped, and how to go on: notes of its exception.

    remedy : ends the text where there are none
    """
    return "; ".join(getattr(error, "__notes__", [f"no file was left half-written{remedy}"]))


def shown(error: Exception, params: list[click.Parameter]) -> str:
    """The message of an error, in options and on one line."""
    return escape_control(in_options(str(error), params), LONGEST_MESSAGE)


def leave_closed_pipe() -> None:
    """Discard further output, since its reader has gone: Python would complain of it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no stream, or not of a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def in_options(message: str, params: list[click.Parameter]) -> str:
    """A message of the library, its parameters in backquotes replaced by the command's options."""
    flags = {
        str(param.name): param.human_readable_name
        if isinstance(param, click.Argument)
        else param.opts[-1]
        for param in params
    }
    return in_flags(message, flags)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="xpcap")
def main() -> None:
    """Train and run LSTM image captioners with hand-written gradients, on NumPy or CuPy.

    Start with 'train': without data it generates pictures of shapes, trains a captioner on them and
    shows its captions. 'COMMAND --help' has examples. Exit status: 0 done; 1 failed; 2 wrong usage;
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP; 141 closed output pipe.
    """
    # Captions may hold characters that the terminal cannot show
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
