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
    help="How the matrices are stored. int8 also quantises what is multiplied with them.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=1),
    help="Version of the ONNX operators. Default: 17, or what the encoder needs, if that is more.",
)
@click.option(
    "--with-encoder",
    is_flag=True,
    help="Also write pictures.onnx, from pixels to words; the run's encoder must be an ONNX graph.",
)
def export(run: Path, folder: Path, weights: str, opset: int | None, with_encoder: bool) -> None:
    """Write a run's model as ONNX.

    start.onnx makes a state of the encoder's features, step.onnx makes scores of the next word and
    a new state of a word and a state, greedy.onnx makes whole captions of features. Each holds the
    vocabulary. ONNX Runtime runs them without xpcap: docs/howto/export.md has names, shapes and code.

    The export is the run's own model, decoded greedily, without the ranking of a beam that a run may
    have. 'evaluate --greedy' has the scores of its captions.
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
