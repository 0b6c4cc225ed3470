"""A run as a folder of ONNX files: names, metadata, checks, and the whole write."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xpcap import __version__
from xpcap.data.vocabulary import TOKENISER
from xpcap.encoders.kinds import named, split_options
from xpcap.encoders.onnx import ONNX, OnnxEncoder
from xpcap.errors import DataError, OptionError, install, unknown
from xpcap.export.onnx_encoder import add_encoder, converted, load_encoder, opset_of
from xpcap.export.onnx_graphs import (
    STEPS,
    WEIGHTS,
    Builder,
    Captioner,
    greedy_graph,
    start_graph,
    step_graph,
)
from xpcap.files import atomic, new_folder, require_new_file
from xpcap.models import CaptioningRNN
from xpcap.options import Whole
from xpcap.runs import Run

FORMAT = "1"  # of the names, shapes and metadata
OPSET = 17  # ONNX Runtime has it from 1.12
START, STEP, GREEDY, PICTURES = "start.onnx", "step.onnx", "greedy.onnx", "pictures.onnx"


class Exported(NamedTuple):
    """The files of an export."""

    files: list[Path]
    opset: int


def export_onnx(
    run: Run[CaptioningRNN],
    folder: str | Path,
    *,
    weights: str = "float32",
    opset: int | None = None,
    with_encoder: bool = False,
) -> Exported:
    """Write the run's own model to a new folder, as ONNX.

    ``start.onnx`` computes the state before the first word from features, as the encoder gives
    them: the run's PCA and scaling are part of the graph. ``step.onnx`` computes the scores of the
    next word and the next state. ``greedy.onnx`` decodes a whole caption. Ranking, and the first
    stage that takes part in it, stay behind. docs/howto/export.md lists names and shapes.

    Parameters
    ----------
    weights : of the matrices: ``float32``; ``float16``, cast when a file is loaded; ``int8``, with
        inputs quantised as they come. States and scores are float32
    opset : of the ONNX operators. None: 17, or more if the encoder needs it
    with_encoder : also write ``pictures.onnx``, from pixels to captions

    Raises
    ------
    DataError : the package onnx is missing; the folder exists or cannot be written to; the encoder
        is no ONNX graph.
    OptionError : no such `weights`; the model is an ensemble, or its cell has no ONNX form; the
        opset lacks an operator.
    """
    folder = Path(folder)
    require_exportable("export_onnx", run, folder, weights)
    if opset is not None:
        import onnx

        Whole(1, onnx.defs.onnx_opset_version()).check("export_onnx", "`opset`", opset)
    captioner = Captioner(run.model, run.preprocessing)
    most = run.config.max_words
    encoder, network = None, None
    if with_encoder:
        encoder = _network_of(run)
        network = load_encoder(encoder)
        opset = opset or max(OPSET, opset_of(network))
        network = converted(network, opset, encoder.name)
    opset = opset or OPSET
    graphs: dict[str, Any] = {
        START: start_graph(captioner, weights),
        STEP: step_graph(captioner, weights),
        GREEDY: greedy_graph(captioner, weights, run.vocabulary, most),
    }
    about = _metadata(run, weights, most)
    models = {
        name: checked_model(graph, opset, {**about, "graph": name})
        for name, graph in graphs.items()
    }
    if encoder is not None:
        graph = Builder(weights)
        pixels = add_encoder(graph, encoder, network, captioner.features.name)
        whole = greedy_graph(captioner, weights, run.vocabulary, most, (graph, pixels))
        models[PICTURES] = checked_model(whole, opset, {**about, "graph": PICTURES}, network)
    write_folder("export_onnx", folder, {name: content_of(model) for name, model in models.items()})
    return Exported([folder / name for name in models], opset)


def require_exportable(where: str, run: Run[CaptioningRNN], folder: Path, weights: str) -> None:
    """DataError, OptionError, which `where` begins : as of `export_onnx`, but for the encoder."""
    if not isinstance(run.model, CaptioningRNN):
        raise OptionError(
            where,
            run.name,
            f"has {type(run.model).__name__} as its model",
            expected="the model of one run",
            cause="export each run, and average the scores of their steps",
        )
    if run.model.config.cell not in STEPS:
        raise unknown(where, "an ONNX form of cell", run.model.config.cell, STEPS)
    if importlib.util.find_spec("onnx") is None:
        raise DataError(
            where,
            "the package onnx",
            "is missing",
            expected="it to build the graphs",
            cause=f"{install('export')} installs it",
        )
    if weights not in WEIGHTS:
        raise unknown(where, "`weights`", weights, WEIGHTS)
    require_new_file(where, folder)


def _metadata(run: Run[CaptioningRNN], weights: str, most: int) -> dict[str, str]:
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
        "encoder": _without_folder(run.source.encoder or ""),
        "pca": "" if run.projection is None else json.dumps(list(run.projection.components.shape)),
        "feature_scaling": run.config.recipe.feature_scaling,
        "cell": config.cell,
        "inject": config.inject,
        "hidden": str(config.hidden),
        "weights": weights,
    }


def _without_folder(encoder: str) -> str:
    """An encoder's name without the folder of ``onnx:FILE``: the export goes to other machines."""
    if not encoder.startswith("onnx:"):
        return encoder
    file, options = split_options(encoder, ONNX.options)
    return named(f"onnx:{Path(file.removeprefix('onnx:')).name}", **options)


def _network_of(run: Run[CaptioningRNN]) -> OnnxEncoder:
    """The run's encoder. DataError : it is none, or no ONNX graph."""
    encoder = run.encoder("export_onnx")
    if not isinstance(encoder, OnnxEncoder):
        raise DataError(
            "export_onnx",
            run.path,
            f"has the encoder {encoder.name!r}, which is no ONNX graph",
            expected="efficientnet-lite2 or onnx:FILE",
            cause=f"leave `with_encoder` out, and give {GREEDY} its features",
        )
    return encoder


def checked_model(graph: Any, opset: int, metadata: dict[str, str], encoder: Any = None) -> Any:
    """A checked ModelProto, with what the ModelProto of an encoder in it declares.

    OptionError : the opset lacks an operator.
    """
    import onnx
    from onnx import helper

    imports, functions = [helper.make_opsetid("", opset)], []
    ir_version = helper.find_min_ir_version_for(imports)
    if encoder is not None:
        imports += [one for one in encoder.opset_import if one.domain not in ("", "ai.onnx")]
        functions, ir_version = encoder.functions, max(ir_version, encoder.ir_version)
    model = helper.make_model(
        graph,
        opset_imports=imports,
        functions=functions,
        ir_version=ir_version,
        producer_name="xpcap",
        producer_version=__version__,
    )
    helper.set_model_props(model, metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OptionError(
            "export_onnx",
            "`opset`",
            f"is {opset}, which lacks an operator of {metadata['graph']}",
            expected=f"a newer one, such as {OPSET}: {reason}",
        ) from error
    return model


def content_of(model: Any) -> bytes:
    """A ModelProto as the content of a file; equal graphs give equal bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write_folder(where: str, folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name to a new folder, which is there with all of them or not at all."""
    with new_folder(where, folder) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as file:
                file.write(content)
