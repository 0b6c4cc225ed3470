"""`evaluate`: score a run on a split, compare it with another run, and look for symptoms."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from xpcap.captioning.doctor import BAD, CHECK, OK, UNKNOWN, Diagnosis, examine_run
from xpcap.captioning.scores import Scores, compare, evaluate_run
from xpcap.cli.decoding import Decoding, decoding_options
from xpcap.cli.group import in_options
from xpcap.cli.prepare import prepare
from xpcap.cli.rules import check_rules
from xpcap.cli.shared import (
    PATH,
    backend_option,
    begin,
    choose_backend,
    csv_option,
    echo_wrapped,
    examples,
    json_option,
    print_protocols,
    print_scores,
    run_argument,
    table,
)
from xpcap.cli.train import train
from xpcap.data import CaptionData
from xpcap.distributed import SINGLE, RankDone
from xpcap.distributed.work import work
from xpcap.files.read_write import require_new_file, write_new
from xpcap.report import escape_control
from xpcap.runs.run import Run, open_run

EXAMPLES = examples(
    "evaluate runs/flickr8k",
    "evaluate runs/flickr8k --beam 5",
    "evaluate runs/flickr8k --data other.h5 --split test --json",
    "evaluate runs/flickr8k --against runs/other --csv scores.csv",
    "evaluate runs/flickr8k --doctor",
)


@click.command(epilog=EXAMPLES)
@run_argument
@click.option(
    "--data",
    metavar="FILE",
    type=PATH,
    help="Dataset file to score on. Default: the run's data.",
)
@click.option("--split", metavar="NAME", default="val", show_default=True, help="Split to score.")
@click.option(
    "--against",
    metavar="FOLDER",
    type=PATH,
    help="Run folder to compare with, on the same pictures, with a 95 % interval of each difference.",
)
@click.option(
    "--doctor",
    is_flag=True,
    help="Also look for causes of bad captions, and print advice.",
)
@csv_option
@decoding_options(n_best=False)
@backend_option
@json_option
def evaluate(
    run: Path,
    data: Path | None,
    split: str,
    against: Path | None,
    doctor: bool,
    csv: Path | None,
    decoding: Decoding,
    backend: str | None,
    as_json: bool,
) -> None:
    """Score a run.

    Captions every picture of a split as 'caption' does, scores the captions against all references,
    and computes the perplexity of the references.
    """
    check_rules()
    if csv is not None:
        require_new_file(csv, ".csv")
    group = begin()
    choose_backend(backend)
    opened_run = open_run(run)
    dataset = opened_run.data(data)

    def scores_of(run: Run, data: CaptionData | Path | None) -> Scores:
        return evaluate_run(run, data, split, policy=decoding.policy(run))

    evaluation = scores_of(opened_run, dataset)
    comparison = compare(evaluation, scores_of(open_run(against), data)) if against else None
    if group.rank:
        raise RankDone
    with work(group=SINGLE):
        diagnoses = _diagnoses(opened_run, evaluation, dataset) if doctor else None
    if as_json:
        content = evaluation.to_json()
        if comparison:
            content["against"] = {"run": str(against), **comparison.to_json()}
        if diagnoses is not None:
            content["doctor"] = [diagnosis.to_json() for diagnosis in diagnoses]
        click.echo(json.dumps(content))
    else:
        print_scores(evaluation)
        print_protocols(evaluation)
        if comparison:
            click.echo(f"\nA: {escape_control(str(run))}")
            click.echo(f"B: {escape_control(str(against))}")
            heads = ("", "A", "B", "A - B", "95 % interval")
            click.echo(table([heads, *comparison.rows()]))
            for reason in dict.fromkeys(comparison.left_out.values()):
                names = (name for name, why in comparison.left_out.items() if why == reason)
                echo_wrapped(f"not compared, as {reason}: {', '.join(names)}")
        if diagnoses is not None:
            _print_diagnoses(diagnoses)
    if csv is not None:
        write_new(csv, evaluation.to_csv().encode("utf-8-sig"))


def _diagnoses(run: Run, evaluation: Scores, data: CaptionData) -> list[Diagnosis]:
    """The diagnoses, naming options of `prepare`, of `train` and of this command."""
    params = [*prepare.params, *train.params, *click.get_current_context().command.params]
    diagnoses = examine_run(run, evaluation, data)
    return [diagnosis._replace(text=in_options(diagnosis.text, params)) for diagnosis in diagnoses]


def _print_diagnoses(diagnoses: Sequence[Diagnosis]) -> None:
    """Print a row for each diagnosis, then the advice of those that are not ok."""
    counts = Counter(diagnosis.verdict for diagnosis in diagnoses)
    order = (BAD, CHECK, UNKNOWN, OK)
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])
    click.echo(f"\ndoctor: {totals}")
    click.echo(table([diagnosis.row for diagnosis in diagnoses]))
    for diagnosis in diagnoses:
        if diagnosis.verdict != OK:
            click.echo()
            echo_wrapped(f"{diagnosis.name}, {diagnosis.verdict}: {escape_control(diagnosis.text)}")
