"""`evaluate`: the scores of a run on a split."""

import json
from pathlib import Path

import click

from xpcap.cli.shared import PATH, backend_option, choose_backend, examples, json_option, print_scores
from xpcap.runs import evaluate_run, open_run


@click.command(epilog=examples("evaluate runs/flickr8k", "evaluate runs/flickr8k --data other.h5 --split test --json"))
@click.argument("run", type=PATH)
@click.option("--data", type=PATH, help="Another dataset file; its text is encoded with the run's vocabulary. Default: the run's own data.")
@click.option("--split", default="val", show_default=True, help="The split to score.")
@backend_option
@json_option
def evaluate(run: Path, data: Path | None, split: str, backend: str | None, as_json: bool) -> None:
    """Score a run.

    Captions every picture of a split greedily with the best parameters of the run folder RUN, scores the captions against all references,
    and computes the perplexity of the references.
    """
    choose_backend(backend)
    evaluation = evaluate_run(open_run(run), data, split, progress=True, java=True)
    if as_json:
        click.echo(json.dumps(evaluation.to_json()))
    else:
        print_scores(evaluation)
