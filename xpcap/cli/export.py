"""`export`: a run as files for other programs, or as a page for browsers."""

from pathlib import Path

import click

from xpcap.cli.rules import check_rules
from xpcap.cli.shared import (
    PATH,
    Value,
    begin,
    examples,
    note,
    run_argument,
    table,
)
from xpcap.export import RUNTIME_VERSION, WEIGHTS, export_onnx, export_web
from xpcap.options import Names
from xpcap.runs import open_run


@click.command(
    epilog=examples(
        "export runs/flickr8k --onnx flickr8k-onnx",
        "export runs/flickr8k --onnx flickr8k-onnx --weights float16 --with-encoder",
        f"export runs/flickr8k --web page --runtime onnxruntime-web-{RUNTIME_VERSION}.tgz",
    )
)
@run_argument
@click.option(
    "--onnx",
    metavar="FOLDER",
    type=PATH,
    help="The folder to write ONNX files to; it must not exist.",
)
@click.option(
    "--web",
    metavar="FOLDER",
    type=PATH,
    help="The folder to write a web page to; it must not exist.",
)
@click.option(
    "--weights",
    type=Value(Names(WEIGHTS)),
    help="Type of the stored matrices. Default: float32, of a page float16.",
)
@click.option(
    "--with-encoder",
    is_flag=True,
    help=(
        "Also write pictures.onnx, from pixels to words; the run's encoder must be an ONNX graph."
    ),
)
@click.option(
    "--runtime",
    type=PATH,
    help=(
        f"npm's package onnxruntime-web {RUNTIME_VERSION} for a page: its .tgz or folder. Default:"
        " the one here, where npm leaves it."
    ),
)
def export(
    run: Path,
    onnx: Path | None,
    web: Path | None,
    weights: str | None,
    with_encoder: bool,
    runtime: Path | None,
) -> None:
    """Write a run's model as ONNX, or as a page that captions in the browser.

    --onnx: start.onnx computes the initial state from features, step.onnx the next word's scores
    and state, greedy.onnx whole captions. Each contains the vocabulary. ONNX Runtime runs them
    without xpcap: docs/howto/export.md has names, shapes and code. The export is the run's model,
    decoded greedily, without its ranking. 'evaluate --greedy' scores its captions.

    --web: a folder for any web server, such as 'python -m http.server'. The page captions pictures
    that are dropped, pasted, chosen or photographed, and ranks captions as the run does. It
    computes with onnxruntime-web, which is not part of xpcap: 'npm pack onnxruntime-web@VERSION'
    downloads it.
    """
    check_rules()
    begin()
    opened_run = open_run(run)
    if web is not None:
        weights = weights or "float16"
        exported = export_web(opened_run, web, runtime=runtime, weights=weights)
    else:
        assert onnx is not None
        weights = weights or "float32"
        exported = export_onnx(opened_run, onnx, weights=weights, with_encoder=with_encoder)
        if opened_run.ranker is not None:
            note(
                f"{opened_run.name} ranks the captions of a beam; the export is its model alone, and"
                " decodes greedily"
            )
    rows = [(str(path), f"{path.stat().st_size / 1e6:.1f} MB") for path in exported.files]
    click.echo(table(rows))
    click.echo(f"{weights} weights, opset {exported.opset}")
    if web is not None:
        size = sum(path.stat().st_size for path in exported.files)
        click.echo(
            f"{size / 1e6:.1f} MB in {web}; to see the page, type\n"
            f"  python -m http.server --directory {web}\nand open http://localhost:8000"
        )
