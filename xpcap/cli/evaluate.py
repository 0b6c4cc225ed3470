"""`evaluate`: the scores of a run on a split."""

import json
from pathlib import Path

import click

from xpcap.cli.doctor import print_findings
from xpcap.cli.shared import PATH, backend_option, choose_backend, examples, json_option, print_evaluation
from xpcap.runs import data_of, evaluate_run, examine_run, open_run


@click.command(
    epilog=examples("evaluate runs/flickr8k", "evaluate runs/flickr8k --data other.h5 --split test --json", "evaluate runs/flickr8k --doctor")
)
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, help="Another dataset file; its text is encoded with the run's vocabulary. Default: the run's own data.")
@click.option("--split", default="val", show_default=True, help="The split to score.")
@click.option("--doctor", is_flag=True, help="Also look for the usual reasons of bad captions, and say what to do.")
@backend_option
@json_option
def evaluate(run: Path, data: Path | None, split: str, doctor: bool, backend: str | None, as_json: bool) -> None:
    """Score a run.

    Captions every picture of a split greedily with the best parameters of the run folder RUN, scores the captions against all references,
    and computes the perplexity of the references.
    """
    choose_backend(backend)
    opened = open_run(run)
    seen = data_of(opened, data)
    evaluation = evaluate_run(opened, seen, split, progress=True)
    findings = examine_run(opened, [caption.caption.split() for caption in evaluation.captions], seen, split) if doctor else []
    if as_json:
        click.echo(json.dumps(evaluation.to_json() | ({"doctor": [finding.to_json() for finding in findings]} if doctor else {})))
        return
    print_evaluation(evaluation)
    if doctor:
        print_findings(findings)
