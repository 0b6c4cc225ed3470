"""The command group: it turns errors into a message that names options, and an exit status.

In a distributed job, rank 0 prints. If another rank fails by itself, it prints too, and ends all ranks.
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
from xpcap.backend.probe import first_line, is_device_error
from xpcap.cli.shared import SHARED, in_flags
from xpcap.distributed import RankDone, abort, launcher_rank
from xpcap.errors import EXPECTED, OptionError, one_of
from xpcap.files.read_write import NO_ROOM, write_advice
from xpcap.report import escape_control
from xpcap.trainer.saver import STOP_SIGNALS

LONGEST_MESSAGE = 4000  # characters
GRACE = 2.0  # seconds that a failing rank waits, in case rank 0 reports the same failure
STOPPED = [128 + signum for signum in STOP_SIGNALS]  # exit statuses of all ranks after a signal
STREAMS = {"stdin": "r", "stdout": "w", "stderr": "w"}  # of descriptors 0, 1 and 2
RESTARTS = "; the same command starts from the beginning"
GPU_ADVICE = (
    "--backend numpy computes on the CPU, and --plain on the GPU without xpcap's own kernels; make"
    " gpu-check finds the cause"
)
PIPE_CLOSED = 128 + 13  # exit status after SIGPIPE, a signal that Windows does not have


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command like Ctrl-C."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signal = signum


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP raise Terminated, unless they are ignored or handled."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Terminated(signum)

    default_signals = []
    if threading.current_thread() is threading.main_thread():  # only it can handle signals
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
    """Open the null device for a missing stdin, stdout or stderr.

    Otherwise a file that is opened later gets the descriptor, and receives the output of C libraries.
    """
    for descriptor, (name, mode) in enumerate(STREAMS.items()):
        try:
            os.fstat(descriptor)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: the same
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


class Commands(click.Group):
    """A group that prints expected errors without a traceback, and suggests similar names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(
                str(
                    OptionError(
                        f"command {args[0]!r} does not exist, expected {one_of(self.commands, args[0])}"
                    )
                ),
                ctx,
            )
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
            open(os.devnull, "w") as null,  # noqa: PTH123
            contextlib.redirect_stdout(null) if rank else contextlib.nullcontext(),
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
                time.sleep(GRACE)  # if rank 0 fails too, it ends this rank
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
            message = f"{ctx.invoked_subcommand}: {_file_message(error)}"
            raise click.ClickException(message) from error
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


def _file_message(error: OSError) -> str:
    """The message of a file that cannot be read or written, with a remedy."""
    file = os.fsdecode(error.filename or "")
    reason = error.strerror or str(error)
    if error.errno not in NO_ROOM:
        advice = "expected a file that can be read or written; check the path and its permissions"
        advice += f"; {_state(error)}" if hasattr(error, "__notes__") else ""
    elif file:
        advice = f"{write_advice(error, Path(file).parent)}; {_state(error, RESTARTS)}"
    else:
        file = "standard output"
        advice = f"expected free space on the disk of its file; {_state(error, RESTARTS)}"
    return escape_control(f"{file}: {reason}, {advice}" if file else f"{reason}, {advice}")


def _state(error: BaseException, remedy: str = "") -> str:
    """State of the files after an error, and how to continue: the notes of the exception.

    remedy : end of the text if there are no notes
    """
    return "; ".join(getattr(error, "__notes__", [f"no file was left half-written{remedy}"]))


def shown(error: Exception, params: list[click.Parameter]) -> str:
    """The message of an error, naming options, on one line."""
    return escape_control(in_options(str(error), params), LONGEST_MESSAGE)


def leave_closed_pipe() -> None:
    """Discard further output after its reader has closed the pipe; else Python fails at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be no such stream
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def in_options(message: str, params: list[click.Parameter]) -> str:
    """A message of the library, with the command's options for parameters in backquotes."""
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
