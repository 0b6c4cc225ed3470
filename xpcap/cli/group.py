"""The group of commands, and what it does with errors: one message in terms of the command's options, and an exit status."""

import io
import re
import signal
import sys
from typing import Any

import click

from xpcap import __version__
from xpcap.errors import EXPECTED, OptionError, nearest
from xpcap.report import visible

LONGEST_MESSAGE = 4000  # characters


class Commands(click.Group):
    """A group that prints errors the user can mend as one message, without a traceback, and suggests near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order that people use them."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}, expected one of {', '.join(self.commands)}{nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(self._message(ctx, error)) from error
        except EXPECTED as error:
            raise click.ClickException(self._message(ctx, error)) from error
        except MemoryError as error:
            raise click.ClickException(f"{ctx.invoked_subcommand}: out of memory ({error}); choose smaller sizes, or smaller data") from error
        except KeyboardInterrupt:
            click.echo(f"{ctx.invoked_subcommand}: interrupted; no file was left half-written", err=True)
            ctx.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            raise  # whoever read our output has gone; click ends quietly
        except OSError as error:
            place = f"{visible(str(error.filename))}: " if error.filename else ""
            hint = "expected to read or write there; is the path right, and is there room and permission?"
            raise click.ClickException(f"{ctx.invoked_subcommand}: {place}{error.strerror or error}, {hint}") from error

    def _message(self, ctx: click.Context, error: Exception) -> str:
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        return visible(in_options(str(error), command.params if command else []), LONGEST_MESSAGE)


def in_options(message: str, params: list[click.Parameter]) -> str:
    """A message of the library as a user of the command line knows things: a parameter in backquotes becomes the command's option."""
    names = {param.name: param.human_readable_name if isinstance(param, click.Argument) else param.opts[-1] for param in params}
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="xpcap")
def main() -> None:
    """Train and run LSTM image captioners with hand-written gradients, on NumPy or CuPy.

    Start with 'train': without data it generates pictures of shapes, learns to caption them and shows the result. 'COMMAND --help' has
    examples of each command. Exit status: 0 done, 1 failed, 2 wrong usage, 130 or 143 stopped by Ctrl-C or SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # captions may hold what the terminal cannot show
