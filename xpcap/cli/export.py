"""`export`: a run as files for other programs."""

from pathlib import Path

import click

from xpcap.cli.shared import PATH, Choice, examples, remark, table
from xpcap.export import WEIGHTS, export_onnx
from xpcap.runs import open_run


@click.command(
    epilog=examples(
        "export runs/flickr8k --onnx flickr8k-onnx",
        "export runs/flickr8k --onnx flickr8k-int8 --weights int8 --with-encoder",
    )
)
@click.argument("run", type=PATH)
@click.option(
    "--onnx", "folder", type=PATH, required=True, help="The folder to write; it must not exist."
)
@click.option(
    "--weights",
    type=Choice(*WEIGHTS),
    default="float32",
    show_default=True,
    help="Type of the stored matrices. int8 also quantises what they are multiplied with.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=1),
    help="Version of the ONNX operators. Default: 17, or more if the encoder needs it.",
)
@click.option(
    "--with-encoder",
    is_flag=True,
    help="Also write pictures.onnx, from pixels to words; the run's encoder must be an ONNX graph.",
)
def export(run: Path, folder: Path, weights: str, opset: int | None, with_encoder: bool) -> None:
    """Write a run's model as ONNX.

    start.onnx computes the initial state from features, step.onnx the next word's scores and state,
    greedy.onnx whole captions. Each contains the vocabulary. ONNX Runtime runs them without xpcap:
    docs/howto/export.md has names, shapes and code.

    The export is the run's model, decoded greedily, without its ranking. 'evaluate --greedy' scores
    its captions.
    """
    opened = open_run(run, on_remark=remark)
    exported = export_onnx(opened, folder, weights=weights, opset=opset, with_encoder=with_encoder)
    if opened.ranker is not None:
        remark(
            f"{opened.name} ranks the captions of a beam; the export is its model alone, and decodes"
            " greedily"
        )
    rows = [(str(path), f"{path.stat().st_size / 1e6:.1f} MB") for path in exported.files]
    click.echo(table(rows))
    click.echo(f"{weights} weights, opset {exported.opset}")
