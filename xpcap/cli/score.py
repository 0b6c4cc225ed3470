"""`score`: score captions from any source."""

import json
from pathlib import Path

import click

from xpcap.captioning.scores import score_captions
from xpcap.cli.shared import PATH, csv_option, examples, json_option, print_protocols, print_scores
from xpcap.data import open_data
from xpcap.files.read_write import require_new_file, write_new
from xpcap.prepare.submission import read_submission


@click.command(
    epilog=examples(
        "score captions.json --data flickr8k.h5",
        "score captions.json --data flickr8k.h5 --split val --csv scores.csv --json",
    )
)
@click.argument("captions", type=PATH)
@click.option("--data", type=PATH, required=True, help="Dataset file with the references.")
@click.option("--split", default="val", show_default=True, help="Split of the captions.")
@csv_option
@json_option
def score(captions: Path, data: Path, split: str, csv: Path | None, as_json: bool) -> None:
    """Score captions from any source.

    CAPTIONS is a table or JSON lines, as 'caption' writes them, or a JSON file: an object that maps
    pictures to captions; a list of objects with 'caption' and 'image', 'image_id' or 'file_name', as
    in COCO's evaluation; or the output of 'evaluate --json'. Every picture of the split needs one
    caption. Scores that need a model are omitted.
    """
    if csv is not None:
        require_new_file(csv, ".csv")
    opened = open_data(data)
    submitted = read_submission(captions, opened.split(split).images)
    scores = score_captions(opened, split, submitted.captions)
    if csv is not None:
        write_new(csv, scores.to_csv().encode("utf-8-sig"))
    if submitted.unmatched:
        explained = [
            f", {name[:100]} ({reason})" for name, reason in submitted.unmatched.items() if reason
        ]
        count = f"{len(submitted.unmatched):,}{''.join(explained[:1])}"
        click.echo(f"score: captions left out, without a picture in {split!r}: {count}", err=True)
    if as_json:
        click.echo(json.dumps(scores.to_json()))
    else:
        print_scores(scores)
        print_protocols(scores)
