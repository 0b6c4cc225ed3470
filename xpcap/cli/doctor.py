"""How `evaluate --doctor` prints what it found."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import click

from xpcap.cli.group import in_options
from xpcap.cli.prepare import prepare
from xpcap.cli.shared import table
from xpcap.cli.train import train
from xpcap.report import visible
from xpcap.runs.findings import BAD, CHECK, OK, UNKNOWN, Finding

WIDTH = 120  # characters in a line


def in_flags(findings: Sequence[Finding], params: Sequence[click.Parameter]) -> list[Finding]:
    """The findings as a user of the command line knows things: what to change are options of `prepare`, of `train`, or among `params`."""
    options = [*prepare.params, *train.params, *params]
    return [finding._replace(text=in_options(finding.text, options)) for finding in findings]


def print_findings(findings: Sequence[Finding]) -> None:
    """A row for each finding, then what those that are not ok mean, and what to do."""
    verdicts = Counter(finding.verdict for finding in findings)
    found = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (BAD, CHECK, UNKNOWN, OK) if verdicts[verdict])
    click.echo(f"\ndoctor: {found}")
    click.echo(table([finding.row for finding in findings]))
    for finding in findings:
        if finding.verdict != OK:
            text = f"{finding.name}, {finding.verdict}: {visible(finding.text)}"
            click.echo("\n" + textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
