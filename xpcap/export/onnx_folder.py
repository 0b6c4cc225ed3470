"""Export a run as a folder of ONNX files, with metadata, and check them."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xpcap import __version__
from xpcap.data.vocabulary import TOKENISER
from xpcap.encoders.kinds import in_folder
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.errors import DataError, OptionError, install, one_of
from xpcap.export.onnx_encoder import add_encoder, is_own, load_encoder, opset_of
from xpcap.export.onnx_graphs import (
    WEIGHTS,
    GraphCaptioner,
    greedy_graph,
    require_form,
    start_graph,
    step_graph,
)
from xpcap.export.tensor import FUNCTIONS
from xpcap.files.onnx_file import IR_VERSION, Graph
from xpcap.files.read_write import atomic, new_folder, require_new_file
from xpcap.options import Flag
from xpcap.runs.run import Run

FORMAT = "1"  # of the names, shapes and metadata
START = "start.onnx"
STEP = "step.onnx"
GREEDY = "greedy.onnx"
PICTURES = "pictures.onnx"


class Exported(NamedTuple):
    """The files of an export."""

    files: list[Path]
    opset: int


def export_onnx(
    run: Run,
    folder: str | Path,
    *,
    weights: str = "float32",
    with_encoder: bool = False,
) -> Exported:
    """Write the run's model to a new folder, as ONNX.

    ``start.onnx`` computes the state before the first word from the encoder's features; it includes
    the run's scaling. ``step.onnx`` computes the logits of the next word and the next state.
    ``greedy.onnx`` decodes a complete caption. Reranking is not exported. docs/howto/export.md lists
    names and shapes.

    Parameters
    ----------
    weights : dtype of the matrices: ``float32``, or ``float16``, cast when a file is loaded. States
        and logits are float32
    with_encoder : also write ``pictures.onnx``, from pixels to captions

    Raises
    ------
    DataError : the package onnx is missing; the folder exists or cannot be written; the encoder is
        not an ONNX graph; float16 cannot hold a weight.
    OptionError : `weights` is unknown, or the model's cell has no ONNX form.
    """
    folder = Path(folder)
    with_encoder = Flag().check("`with_encoder`", with_encoder)
    require_exportable(run, folder, weights)
    captioner = GraphCaptioner(run.model, run.scaling, weights)
    max_words = run.config.max_words
    graphs = {
        START: start_graph(captioner),
        STEP: step_graph(captioner),
        GREEDY: greedy_graph(captioner, run.vocabulary, max_words),
    }
    network = None
    if with_encoder:
        encoder = _network_of(run)
        network = load_encoder(encoder)
        features = add_encoder(Graph("pictures"), encoder, network, weights)
        graphs[PICTURES] = greedy_graph(captioner, run.vocabulary, max_words, features)
    metadata = _metadata(run, weights, max_words)
    files = {
        name: checked_model(
            graph, {**metadata, "graph": name}, network if name == PICTURES else None
        )
        for name, graph in graphs.items()
    }
    write_folder(folder, files)
    return Exported([folder / name for name in files], opset_of(network))


def require_exportable(run: Run, folder: Path, weights: str) -> None:
    """Raise the errors of `export_onnx`, except those of the encoder."""
    try:
        require_form(GraphCaptioner(run.model, run.scaling, weights))
    except TypeError as error:  # raised by the tensors that record the equations
        raise OptionError(
            f"cell {run.model.config.cell!r} has no ONNX form: its step needs {error}, expected"
            f" arithmetic and {', '.join(sorted(function.__name__ for function in FUNCTIONS))};"
            " write the step with operations on arrays, without loops over their elements"
        ) from error
    if importlib.util.find_spec("onnx") is None:
        raise DataError(
            f"the package onnx is missing, expected it for the checks; {install('export')} installs"
            " it"
        )
    if weights not in WEIGHTS:
        raise OptionError(
            f"`weights` {weights!r} does not exist, expected {one_of(WEIGHTS, weights)}"
        )
    require_new_file(folder)


def _metadata(run: Run, weights: str, max_words: int) -> dict[str, str]:
    """Metadata, as texts: what decoding needs besides the graphs, and their origin."""
    config = run.model.config
    vocabulary = run.vocabulary
    special = {name: getattr(vocabulary, name) for name in ("null", "start", "end", "unk")}
    return {
        "format": FORMAT,
        "run": run.name,
        "vocabulary": json.dumps(vocabulary.idx_to_word, ensure_ascii=False),
        "special": json.dumps(special),
        "tokeniser": TOKENISER,
        "max_words": str(max_words),
        "encoder": in_folder(run.source.encoder or ""),
        "feature_scaling": run.config.recipe.feature_scaling,
        "cell": config.cell,
        "inject": config.inject,
        "hidden": str(config.hidden),
        "weights": weights,
    }


def _network_of(run: Run) -> OnnxEncoder:
    """The run's encoder. DataError : there is none, or it is not an ONNX graph."""
    encoder = run.encoder()
    if not isinstance(encoder, OnnxEncoder):
        raise DataError(
            f"{run.path} has the encoder {encoder.name!r}, which is not an ONNX graph, expected"
            f" efficientnet-lite2 or onnx:FILE; leave `with_encoder` out, and give {GREEDY} its"
            " features"
        )
    return encoder


def checked_model(graph: Graph, metadata: dict[str, str], encoder: Any = None) -> bytes:
    """The content of a graph's file, checked; with the functions and operator sets of an encoder."""
    import onnx

    additions = onnx.ModelProto(producer_version=__version__)
    if encoder is not None:
        additions.ir_version = max(IR_VERSION, encoder.ir_version)
        additions.functions.extend(encoder.functions)
        additions.opset_import.extend(opset for opset in encoder.opset_import if not is_own(opset))
    content = graph.to_bytes(metadata, opset_of(encoder))
    content += additions.SerializeToString(deterministic=True)  # concatenating merges messages
    onnx.checker.check_model(content, full_check=True)
    return content


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name to a new folder; after an error there is no folder."""
    with new_folder(folder) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as file:
                file.write(content)
