"""`verify`: the published numbers and gradient checks, as a table with an exit status."""

import json
import sys

import click

from xpcap.cli.shared import backend_option, choose_backend, examples, json_option, table
from xpcap.verify import Row
from xpcap.verify import verify as run_verify


@click.command(epilog=examples("verify", "verify --backend cupy --json"))
@backend_option
@json_option
def verify(backend: str | None, as_json: bool) -> None:
    """Check published numbers and gradients on a backend.

    Compares with the values that CS231n publishes, and gradients with finite differences: one row
    each, with its error and tolerance. On CuPy, training steps are also compared with NumPy's, and
    with themselves. The exit status is 1 if any row fails.
    """
    choose_backend(backend)
    rows = list(run_verify())
    failed = [row for row in rows if not row.passed]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    else:
        heads = ("case", "backend", "dtype", "error", "tolerance", "pass")
        click.echo(table([heads, *map(_line, rows)]))
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} rows pass")
    if failed:
        sys.exit(1)


def _line(row: Row) -> tuple[str, ...]:
    numbers = f"{row.error:.1e}", f"{row.tolerance:.0e}"
    return row.case, row.backend, row.dtype, *numbers, "yes" if row.passed else "NO"
