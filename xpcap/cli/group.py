"""The command group: errors become one message in terms of options, and an exit status.

Of several processes of a launcher, rank 0 prints. A rank that fails alone prints too, and ends
all.
"""

import contextlib
import io
import os
import signal
import sys
import time
from typing import Any

import click

from xpcap import __version__
from xpcap.cli.shared import SHARED, in_flags
from xpcap.distributed import RankDone, abort, launcher_rank
from xpcap.errors import EXPECTED, OptionError, unknown
from xpcap.report import escape_control

LONGEST_MESSAGE = 4000  # characters
GRACE = 2.0  # seconds that a rank which fails leaves rank 0 to report the same failure
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses: every rank exits by itself
PIPE_CLOSED = 128 + 13  # exit status of a program that SIGPIPE ends; Windows has no such signal


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
        rank, size = launcher_rank()
        if size == 1:
            return super().main(*args, **options)
        with (
            open(os.devnull, "w") as nowhere,  # noqa: PTH123
            contextlib.redirect_stdout(nowhere) if rank else contextlib.nullcontext(),
        ):
            try:
                return super().main(*args, **options)
            except SystemExit as left:
                if left.code not in (0, None, *STOPPED):
                    abort(left.code if isinstance(left.code, int) else 1)
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
            state = str(interrupt) or "no file was left half-written"
            click.echo(f"{ctx.invoked_subcommand}: interrupted; {state}", err=True)
            ctx.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            leave_closed_pipe()
            ctx.exit(PIPE_CLOSED)
        except OSError as error:
            file = f"{escape_control(str(error.filename))}: " if error.filename else ""
            raise click.ClickException(
                f"{ctx.invoked_subcommand}: {file}{error.strerror or error}, expected to read or"
                " write there; is the path right, and is there room and permission?"
            ) from error

    def _message(self, ctx: click.Context, error: Exception) -> str:
        # With train's options, since a run may need more training before it can be used
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        params = [*self.commands["train"].params, *(command.params if command else [])]
        return shown(error, params)


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
        str(one.name): one.human_readable_name if isinstance(one, click.Argument) else one.opts[-1]
        for one in params
    }
    return in_flags(message, flags)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="xpcap")
def main() -> None:
    """Train and run LSTM image captioners with hand-written gradients, on NumPy or CuPy.

    Start with 'train': without data it generates pictures of shapes, trains a captioner on them and
    shows its captions. 'COMMAND --help' has examples. Exit status: 0 done, 1 failed, 2 wrong usage,
    130 or 143 stopped by Ctrl-C or SIGTERM, 141 the reader of the output has gone.
    """
    # Captions may hold characters that the terminal cannot show
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
