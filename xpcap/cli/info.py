"""`info`: show the backends of this machine, or the content of a file or run folder."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import click

from xpcap import __version__
from xpcap.backend import backend_status
from xpcap.backend.cuda_problems import cupy_packages, nccl_package
from xpcap.backend.plain_code import VARIABLE, current_code, is_plain
from xpcap.backend.probe import import_cupy, import_nccl
from xpcap.backend.threads import cores
from xpcap.cli.shared import PATH, begin, describe_data, examples, json_option, table
from xpcap.data import open_data
from xpcap.distributed import Group, RankDone
from xpcap.distributed.mpi import NCCL, MPIGroup, Staged
from xpcap.layers import CELLS
from xpcap.ops import DeviceOps, has_kernels
from xpcap.runs.folder import CONFIG
from xpcap.runs.run import open_run, provenance_text

CODE_TITLES = {
    "fast": "by fast code",
    "plain": f"by plain code, as {VARIABLE}=1 is set",
}


@click.command(epilog=examples("info", "info flickr8k.h5", "info runs/flickr8k --json"))
@click.argument("file", required=False, type=PATH)
@json_option
def info(file: Path | None, as_json: bool) -> None:
    """Show usable backends, or the content of a file.

    FILE is a dataset file, a coco_captioning folder or a run folder. Without FILE, the command shows
    this machine's backends, with a reason for each unusable one.
    """
    if file is None:
        _print_machine(as_json)
    elif (file / CONFIG).is_file():
        _print_run(file, as_json)
    else:
        _print_data(file, as_json)


def _print_machine(as_json: bool) -> None:
    group = begin()
    versions = {
        "xpcap": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "code": current_code(),
    }
    status = backend_status()
    ranks = _ranks(group)
    without_kernels = DeviceOps.without_kernels()
    without_kernels += [
        f"steps of cell {name}" for name, cell in CELLS.items() if not has_kernels(cell)
    ]
    if group.rank:
        raise RankDone
    if as_json:
        backends = {name: backend._asdict() for name, backend in status.items()}
        click.echo(
            json.dumps(
                {**versions, **ranks, "backends": backends, "without_kernels": without_kernels}
            )
        )
        return
    python, system, n_cores = (versions[key] for key in ("python", "platform", "cores"))
    click.echo(f"xpcap {__version__}, Python {python}, {system}, {n_cores} cores")
    click.echo(f"computes {CODE_TITLES[current_code()]}")
    rows = [("backend", "version", "", "devices, or why not")]
    for backend in status.values():
        usability = "usable" if backend.usable else "not usable"
        devices = ", ".join(backend.devices) if backend.usable else backend.why
        rows.append((backend.name, backend.version or "-", usability, devices))
    click.echo(table(rows))
    if cuda := status["cupy"].cuda:
        click.echo(f"{cupy_packages()} for {cuda}")
    if without_kernels and not is_plain() and status["cupy"].usable:
        click.echo(f"without xpcap's CUDA kernels, computed by CuPy: {', '.join(without_kernels)}")
    if ranks:
        machines = f"{ranks['machines']} machine{'s' if ranks['machines'] > 1 else ''}"
        click.echo(
            f"{ranks['ranks']} ranks on {machines}, {ranks['threads']} BLAS threads each here;"
            f" {ranks['mpi']}"
        )
        if library := ranks["gpu_sums"]:
            install = f"; pip install {nccl_package(import_cupy())} installs NCCL"
            advice = "" if library == NCCL.name else install
            click.echo(f"ranks with a GPU each add up gradients by {library}{advice}")


def _ranks(group: Group) -> dict[str, Any]:
    """The number of ranks and their libraries; empty for a single process."""
    if not isinstance(group, MPIGroup):
        return {}
    library = None
    if backend_status()["cupy"].usable:
        library = NCCL.name if import_nccl() else Staged.name
    return {
        "ranks": group.size,
        "machines": len(set(group.hosts)),
        "threads": cores(),
        "mpi": group.library,
        "gpu_sums": library,
    }


def _print_run(folder: Path, as_json: bool) -> None:
    begin()
    run = open_run(folder)
    parameters = run.model.size
    if as_json:
        click.echo(
            json.dumps({"config": run.config.to_json(), "best": run.meta, "parameters": parameters})
        )
        return
    click.echo(table([(key, json.dumps(value)) for key, value in run.config.to_json().items()]))
    click.echo(f"{parameters:,} parameters; best: {json.dumps(run.meta)}")
    click.echo(provenance_text(run))


def _print_data(file: Path, as_json: bool) -> None:
    data = open_data(file)
    if not as_json:
        click.echo(describe_data(file, data))
        return
    content = {
        "vocabulary": len(data.vocabulary),
        "feature_dim": data.feature_dim,
        "feature_shape": list(data.feature_shape),
        "max_words": data.max_words,
        "source": data.source.to_json(),
    }
    splits = {
        name: {"pictures": len(split.images), "captions": len(split.captions)}
        for name, split in data.splits.items()
    }
    click.echo(json.dumps({**content, "splits": splits}))
