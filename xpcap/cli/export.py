"""`export`: write a run as files for other programs, or as a page for browsers."""

import shlex
from pathlib import Path

import click

from xpcap.cli.rules import check_rules
from xpcap.cli.shared import PATH, Value, begin, examples, print_notice, run_argument, table
from xpcap.export import RUNTIME_VERSION, WEIGHTS, export_onnx, export_web
from xpcap.options import Names
from xpcap.runs.run import open_run


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
    help="New folder for ONNX files.",
)
@click.option(
    "--web",
    metavar="FOLDER",
    type=PATH,
    help="New folder for a web page.",
)
@click.option(
    "--weights",
    type=Value(Names(WEIGHTS)),
    help="Type of the stored matrices. Default: float32; with --web float16.",
)
@click.option(
    "--with-encoder",
    is_flag=True,
    help="Also write pictures.onnx, from pixels to words.",
)
@click.option(
    "--runtime",
    type=PATH,
    help=(
        f"With --web: the package that 'npm pack onnxruntime-web@{RUNTIME_VERSION}' downloads, as .tgz or"
        " folder. Default: the one in the current folder."
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
    """Export a run as ONNX or as a web page.

    --onnx: start.onnx computes the initial state from features, step.onnx the next word's logits
    and state, greedy.onnx complete captions. Each contains the vocabulary. ONNX Runtime runs them
    without xpcap; the page "Export to ONNX and PyTorch" has code. The export decodes greedily,
    without the run's reranking; 'evaluate --greedy' scores its captions.

    --web: a folder for any web server, such as 'python -m http.server'. The page captions dropped,
    pasted, chosen or photographed pictures, and reranks captions like the run. It needs
    onnxruntime-web, which --runtime describes.
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
        if opened_run.reranker is not None:
            print_notice(
                f"{opened_run.name} reranks captions; the export decodes greedily, without reranking"
            )
    rows = [(str(path), f"{path.stat().st_size / 1e6:.1f} MB") for path in exported.files]
    click.echo(table(rows))
    click.echo(f"{weights} weights, opset {exported.opset}")
    if web is not None:
        size = sum(path.stat().st_size for path in exported.files)
        click.echo(
            f"{size / 1e6:.1f} MB in {web}; to see the page, type\n"
            f"  {shlex.join(('python', '-m', 'http.server', '--directory', str(web)))}\nand open http://localhost:8000"
        )


export.help = str(export.help).replace("@VERSION", f"@{RUNTIME_VERSION}")
