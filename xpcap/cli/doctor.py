"""How `evaluate --doctor` prints what it found."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from xpcap.cli.group import in_options
from xpcap.cli.prepare import prepare
from xpcap.cli.shared import command_line, table
from xpcap.cli.train import train
from xpcap.report import visible
from xpcap.runs import Run
from xpcap.runs.doctor import BAD, CHECK, OK, UNKNOWN, Finding

WIDTH = 120  # characters in a line


def in_flags(findings: Sequence[Finding], params: Sequence[click.Parameter]) -> list[Finding]:
    """The findings as a user of the command line knows things: what to change are options of `prepare`, of `train`, or among `params`."""
    options = [*prepare.params, *train.params, *params]
    return [finding._replace(text=in_options(finding.text, options)) for finding in findings]


def print_findings(findings: Sequence[Finding], run: Run) -> None:
    """A row for each finding, then what those that are not ok mean, and what to do; where words are lacking also the command to type."""
    verdicts = Counter(finding.verdict for finding in findings)
    found = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (BAD, CHECK, UNKNOWN, OK) if verdicts[verdict])
    click.echo(f"\ndoctor: {found}")
    click.echo(table([finding.row for finding in findings]))
    for finding in findings:
        if finding.verdict != OK:
            text = f"{finding.name}, {finding.verdict}: {visible(finding.text)}"
            click.echo("\n" + textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    verdict = {finding.name: finding.verdict for finding in findings}
    if {verdict["unknown"], verdict["vocabulary"]} & {BAD, CHECK} and (again := prepare_again(run)):
        click.echo(f"\nnext, with the folders and the other options that you gave before:\n  {again}")


def prepare_again(run: Run) -> str:
    """The command that prepares a run's data with more words, as far as its record tells; empty: it was not made by `prepare`, or keeps all words."""
    source = run.config.get("source", {})
    files, fewest, most = source.get("captions"), source.get("min_count"), source.get("vocabulary_size")
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files) or not (most or (isinstance(fewest, int) and fewest > 1)):
        return ""
    kept = ["--vocabulary", str(2 * most)] if isinstance(most, int) else ["--min-count", str(fewest // 2)]
    given = [word for option in ("pictures", "features") if isinstance(source.get(option), str) for word in (f"--{option}", source[option])]
    out = Path(run.config["data"])
    return visible(f"{command_line('prepare', *files, *given, *kept, '--out', f'{out.stem}{kept[0][1:]}-{kept[1]}.h5')}")
