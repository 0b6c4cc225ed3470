"""Runs of earlier commits, of each kind, open, caption, score, are exported and go on.

They do so as they did, but for NOW: the differences of those whose ranking was fitted for two models.

The folder kept/earlier has them, with data sets, and expected.json, what their commit printed of
them; make.py there made all of it, and says how. Each kind is known by files:

=============  =====================================================================================
both           two stages: cross-entropy/. The fit chose both: ``"both": true`` in the metadata of
               ranking.safetensors, and first-stage.safetensors, the first stage in float16,
               which nothing reads any more
second         two stages, of which the fit chose the second alone: ``"both": false``, no
               first-stage.safetensors. On data with a PCA: ``projected_from`` in config.json, and
               projection.safetensors, in the first stage's folder too
stopped        as `second`, stopped in the second stage: no ranking.safetensors yet
warm           a warm start from `second`: ``start`` and ``start_digest`` in config.json;
               start-ranking.safetensors, with the photos of that run. Its data has no PCA, so that
               features go through projection.safetensors, which is that of `second`
warm-stopped   as `warm`, stopped in its fifth epoch: no ranking.safetensors yet
warm-both      a warm start from `both` that made nothing better (epoch 0): ``"both": true``, and
               first-stage.safetensors, both inherited; there is no cross-entropy/
=============  =====================================================================================
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from web_pages import tar

pytest.importorskip("PIL")
pytest.importorskip("jinja2")
pytest.importorskip("filelock")

from commands import answer, failing, good

from xpcap import open_data, open_run
from xpcap.runs.folder import BEST, FIRST, PROJECTION, RANKING, START_RANKING
from xpcap.safetensors_file import read_tensors

KEPT = Path(__file__).parent / "kept" / "earlier"
EXPECTED = json.loads((KEPT / "expected.json").read_text())
HOW: dict[str, list[str]] = {"greedy": ["--greedy"], "default": []}
# What differs from EXPECTED by default, where two models made the candidates: of `both` one caption
# of eight, of `warm-both` nothing
NOW: dict[str, dict[str, dict[str, Any]]] = {
    "both": {
        "captions": {"base-28.png": "a red circle and a blue square"},
        "scores": {"bleu4": 0.720678, "cider": 4.273603},
    }
}
LOOSELY = 1e-4  # relative: float32, summed in another order


class Kind(NamedTuple):
    """A kept run: its data, the epoch of its parameters, what the fit chose, and its files."""

    data: str
    epoch: int
    both: bool | None  # None: not fitted yet
    files: set[str]


FIRST_STAGE_FILE = "first-stage.safetensors"
STAGED, PROJECTED = {FIRST}, {FIRST, PROJECTION}
KINDS = {
    "both": Kind("data.h5", 6, True, STAGED | {RANKING, FIRST_STAGE_FILE}),
    "second": Kind("projected.h5", 6, False, PROJECTED | {RANKING}),
    "stopped": Kind("projected.h5", 2, None, PROJECTED),
    "warm": Kind("own.h5", 3, False, {PROJECTION, RANKING, START_RANKING}),
    "warm-stopped": Kind("own.h5", 3, None, {PROJECTION, START_RANKING}),
    "warm-both": Kind("own.h5", 0, True, {RANKING, START_RANKING, FIRST_STAGE_FILE}),
}
FINISHED = [name for name, kind in KINDS.items() if kind.both is not None]
UNBROKEN = {"stopped": "second", "warm-stopped": "warm"}
every = pytest.mark.parametrize("name", KINDS)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(KEPT / name, tmp_path / name))


def scored(run: Path, data: str, *how: object) -> tuple[dict[str, str], dict[str, float]]:
    """Captions and scores of the val split."""
    found = answer("evaluate", run, "--data", KEPT / data, *how)
    return found["captions"], found["scores"]


def require_expected(run: Path, name: str, decoding: str) -> None:
    """The captions and scores are those that the commit printed of the kept run, but for NOW."""
    captions, scores = scored(run, KINDS[name].data, *HOW[decoding])
    now = NOW.get(name, {}) if decoding == "default" else {}
    expected = {
        key: x | now.get(key, {}) for key, x in EXPECTED[name][decoding].items() if key != "picture"
    }
    assert captions == expected["captions"]
    known = {key: scores[key] for key in expected["scores"]}
    assert known == pytest.approx(expected["scores"], rel=LOOSELY)


@every
def test_a_kind_is_known_by_its_files_and_opens(name: str) -> None:
    kind, folder = KINDS[name], KEPT / name
    of_a_kind = {FIRST, PROJECTION, RANKING, START_RANKING, FIRST_STAGE_FILE}
    assert {path.name for path in folder.iterdir()} & of_a_kind == kind.files
    run = open_run(folder)
    assert run.meta["epoch"] == kind.epoch
    assert run.ranking.get("both") is kind.both
    assert (run.ranker is not None) == (RANKING in kind.files)
    assert (run.projection is not None) == (PROJECTION in kind.files)
    assert run.raw_shape == (4, 209)


@every
@pytest.mark.parametrize("decoding", HOW)
def test_captions_and_scores_are_those_of_the_commit_or_the_difference_is_known(
    name: str, decoding: str
) -> None:
    require_expected(KEPT / name, name, decoding)


@every
@pytest.mark.parametrize("command", ["caption", "evaluate", "info"])
def test_a_ranking_for_two_models_is_remarked_on_once_and_ends_with_resume(
    name: str, command: str, folder: Path
) -> None:
    more: dict[str, list[Any]] = {
        "caption": [KEPT / "picture.png"],
        "evaluate": ["--data", KEPT / KINDS[name].data],
    }
    (folder / FIRST_STAGE_FILE).unlink(missing_ok=True)
    said = good(command, folder, *more.get(command, []), "--json").stderr.count(
        "fitted for two models"
    )
    assert said == (KINDS[name].both is True)
    if said and command == "evaluate":
        resume = ["train", KEPT / KINDS[name].data, "--out", folder, "--resume"]
        assert good(*resume).output.count("fitted for two models") == 1
        assert "fitted for two models" not in good(*resume).output


@every
@pytest.mark.parametrize("decoding", HOW)
def test_a_new_picture_has_the_commits_caption(name: str, decoding: str) -> None:
    (captioned,) = answer("caption", KEPT / name, KEPT / "picture.png", *HOW[decoding])
    assert captioned["caption"] == EXPECTED[name][decoding]["picture"]


@every
def test_it_is_exported_as_onnx_with_the_greedy_captions(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra `images` is not installed")
    good("export", KEPT / name, "--onnx", tmp_path / "onnx")
    raw = "own.h5" if name.startswith("warm") else "data.h5"  # without a PCA
    val = open_data(KEPT / raw).split("val")
    graph = runtime.InferenceSession(tmp_path / "onnx" / "greedy.onnx")
    (ids,) = graph.run(["captions"], {"features": np.asarray(val.features[:], np.float32)})
    words = open_run(KEPT / name).vocabulary.words
    captions = {image: " ".join(words(row)) for image, row in zip(val.images, ids, strict=True)}
    assert captions == EXPECTED[name]["greedy"]["captions"]


@every
def test_it_is_exported_as_a_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    from xpcap.export import web_folder

    contents = {file: f"// {file}".encode() for file in web_folder.SHA256}  # for npm's package
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setattr(web_folder, "SHA256", digests)
    runtime = tar(tmp_path / web_folder.TARBALL, contents)
    good("export", KEPT / name, "--web", tmp_path / "page", "--runtime", runtime)
    manifest: dict[str, Any] = json.loads((tmp_path / "page" / "captioner.json").read_text())
    assert sorted(manifest["files"])[-2:] == ["start.onnx", "step.onnx"]
    assert (manifest["ranking"] is not None) == (RANKING in KINDS[name].files)


@pytest.mark.parametrize("name", [name for name in FINISHED if name != "warm"])
def test_a_finished_run_that_is_resumed_has_a_page_and_a_card_and_stays(
    name: str, folder: Path
) -> None:
    good("train", KEPT / KINDS[name].data, "--out", folder, "--resume")
    anew = {RANKING} if KINDS[name].both else set()
    kept = {BEST, "last.safetensors", "history.jsonl", *KINDS[name].files} - {FIRST} - anew
    for file in kept:
        assert (folder / file).read_bytes() == (KEPT / name / file).read_bytes(), file
    tensors, meta = read_tensors(folder / RANKING, "test")
    before, _ = read_tensors(KEPT / name / RANKING, "test")
    assert meta.get("both") is not True
    for key in before.keys() - {"images"}:  # names now say which run photos are from
        np.testing.assert_array_equal(tensors[key], before[key])
    captions = {*EXPECTED[name]["default"]["captions"].values()}
    assert any(caption in (folder / "index.html").read_text() for caption in captions)
    card = (folder / "README.md").read_text()
    files = KINDS[name].files & {PROJECTION, RANKING}
    assert all(f"`{file}`" in card for file in files)
    require_expected(folder, name, "default")


@pytest.mark.parametrize("name", [name for name in UNBROKEN if name != "warm-stopped"])
def test_a_stopped_run_that_is_resumed_ends_as_one_that_never_stopped(
    name: str, folder: Path
) -> None:
    good("train", KEPT / KINDS[name].data, "--out", folder, "--resume")
    unbroken = UNBROKEN[name]
    for key, value in open_run(KEPT / unbroken).model.params.items():
        ours = open_run(folder).model.params[key]
        np.testing.assert_allclose(ours, value, rtol=LOOSELY, atol=LOOSELY)
    require_expected(folder, unbroken, "default")


def test_training_starts_from_it(tmp_path: Path) -> None:
    length = ["--epochs", 1, "--batch-size", 9]
    good("train", KEPT / "own.h5", "--from", KEPT / "both", "--out", tmp_path / "on", *length)
    run = open_run(tmp_path / "on")
    assert run.ranker is not None
    assert len(run.ranker.index) == 24 + 9
    good("evaluate", tmp_path / "on")


@pytest.mark.parametrize(
    "options",
    [
        ["--from", KEPT / "second", "--out", "on"],
        ["--out", "warm", "--resume"],
        ["--out", "warm-stopped", "--resume"],
    ],
    ids=["from second", "warm", "warm-stopped"],
)
def test_whole_features_no_longer_go_through_the_projection_of_another_run(
    options: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("warm", "warm-stopped"):
        shutil.copytree(KEPT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    left = ("warm/.lock", "warm-stopped/.lock")
    left = tuple(file for file in left if Path(file).parent.name in options)
    failing(
        ["train", KEPT / "own.h5", *options], "whole features", "from-an-earlier-0.1.md", left=left
    )
