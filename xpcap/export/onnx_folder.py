"""A run as a folder of ONNX files: names, metadata, checks, and the whole write."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xpcap import __version__
from xpcap.data.vocabulary import TOKENISER
from xpcap.encoders.kinds import in_folder
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.errors import DataError, OptionError, install, unknown
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
from xpcap.files import atomic, new_folder, require_new_file
from xpcap.onnx_graph import IR_VERSION, Graph
from xpcap.options import Flag
from xpcap.runs import Run

FORMAT = "1"  # of the names, shapes and metadata
START, STEP, GREEDY, PICTURES = "start.onnx", "step.onnx", "greedy.onnx", "pictures.onnx"


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
    """Write the run's own model to a new folder, as ONNX.

    ``start.onnx`` computes the state before the first word from features, as the encoder gives
    them: the run's scaling is part of the graph. ``step.onnx`` computes the scores of the next word
    and the next state. ``greedy.onnx`` decodes a whole caption. Reranking stays behind.
    docs/howto/export.md lists names and shapes.

    Parameters
    ----------
    weights : of the matrices: ``float32``, or ``float16``, cast when a file is loaded. States and
        scores are float32
    with_encoder : also write ``pictures.onnx``, from pixels to captions

    Raises
    ------
    DataError : the package onnx is missing; the folder exists or cannot be written to; the encoder
        is no ONNX graph; float16 cannot hold a weight.
    OptionError : no such `weights`; or the model's cell has no ONNX form.
    """
    folder = Path(folder)
    with_encoder = Flag().check("export_onnx", "`with_encoder`", with_encoder)
    require_exportable("export_onnx", run, folder, weights)
    captioner = GraphCaptioner(run.model, run.scaling, weights)
    most = run.config.max_words
    graphs = {
        START: start_graph(captioner),
        STEP: step_graph(captioner),
        GREEDY: greedy_graph(captioner, run.vocabulary, most),
    }
    network = None
    if with_encoder:
        encoder = _network_of(run)
        network = load_encoder(encoder)
        features = add_encoder(Graph("pictures"), encoder, network, weights)
        graphs[PICTURES] = greedy_graph(captioner, run.vocabulary, most, features)
    about = _metadata(run, weights, most)
    files = {
        name: checked_model(graph, {**about, "graph": name}, network if name == PICTURES else None)
        for name, graph in graphs.items()
    }
    write_folder("export_onnx", folder, files)
    return Exported([folder / name for name in files], opset_of(network))


def require_exportable(caller: str, run: Run, folder: Path, weights: str) -> None:
    """DataError, OptionError, which `caller` begins : as of `export_onnx`, but for the encoder."""
    try:
        require_form(GraphCaptioner(run.model, run.scaling, weights))
    except TypeError as error:  # of the tensors that record the equations
        thing, got = f"cell {run.model.config.cell!r}", f"has no ONNX form: its step needs {error}"
        expected = (
            f"arithmetic and {', '.join(sorted(function.__name__ for function in FUNCTIONS))}"
        )
        cause = "an equation of whole arrays, without loops over their numbers, has one"
        raise OptionError(caller, thing, got, expected, cause) from error
    if importlib.util.find_spec("onnx") is None:
        cause = f"{install('export')} installs it"
        raise DataError(caller, "the package onnx", "is missing", "it to check the graphs", cause)
    if weights not in WEIGHTS:
        raise unknown(caller, "`weights`", weights, WEIGHTS)
    require_new_file(caller, folder)


def _metadata(run: Run, weights: str, most: int) -> dict[str, str]:
    """Text by name, as ONNX has it: what a caption needs besides the graphs, and their origin."""
    config, vocabulary = run.model.config, run.vocabulary
    special = {name: getattr(vocabulary, name) for name in ("null", "start", "end", "unk")}
    return {
        "format": FORMAT,
        "run": run.name,
        "vocabulary": json.dumps(vocabulary.idx_to_word, ensure_ascii=False),
        "special": json.dumps(special),
        "tokeniser": TOKENISER,
        "max_words": str(most),
        "encoder": in_folder(run.source.encoder or ""),
        "feature_scaling": run.config.recipe.feature_scaling,
        "cell": config.cell,
        "inject": config.inject,
        "hidden": str(config.hidden),
        "weights": weights,
    }


def _network_of(run: Run) -> OnnxEncoder:
    """The run's encoder. DataError : it is none, or no ONNX graph."""
    encoder = run.encoder("export_onnx")
    if not isinstance(encoder, OnnxEncoder):
        got = f"has the encoder {encoder.name!r}, which is not an ONNX graph"
        cause = f"leave `with_encoder` out, and give {GREEDY} its features"
        raise DataError("export_onnx", run.path, got, "efficientnet-lite2 or onnx:FILE", cause)
    return encoder


def checked_model(graph: Graph, metadata: dict[str, str], encoder: Any = None) -> bytes:
    """A graph as the content of a file, checked, with what the ModelProto of an encoder declares."""
    import onnx

    others = onnx.ModelProto(producer_version=__version__)
    if encoder is not None:
        others.ir_version = max(IR_VERSION, encoder.ir_version)
        others.functions.extend(encoder.functions)
        others.opset_import.extend(opset for opset in encoder.opset_import if not is_own(opset))
    content = graph.to_bytes(metadata, opset_of(encoder))
    content += others.SerializeToString(deterministic=True)  # one message has the fields of both
    onnx.checker.check_model(content, full_check=True)
    return content


def write_folder(caller: str, folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name to a new folder, which is there with all of them or not at all."""
    with new_folder(caller, folder) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as file:
                file.write(content)
