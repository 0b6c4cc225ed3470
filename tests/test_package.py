"""What users of the package meet: its names, a light import, types, errors that can be copied, paths as text, and run folders of older versions."""

import copy
import dataclasses
import json
import pickle
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import few

import xpcap
from xpcap import DataError, ModelConfig, TrainOptions, caption_files, evaluate_run, load_state, open_run, runs, save_state, train_run, write_dataset
from xpcap.data.pictures import write_pictures
from xpcap.errors import EXPECTED, install, unknown
from xpcap.runs import Stopped
from xpcap.runs.folder import model_config, read_config

ROOT = Path(__file__).parent.parent
HEAVY = ("matplotlib", "PIL", "nltk", "jinja2", "filelock", "safetensors", "tqdm", "click", "cupy", "torch", "onnxruntime", "timm")


def test_every_public_name_is_there_once() -> None:
    assert len(set(xpcap.__all__)) == len(xpcap.__all__)
    assert [name for name in xpcap.__all__ if not hasattr(xpcap, name)] == []
    assert {error.__name__ for error in EXPECTED} <= set(xpcap.__all__)


def test_import_stays_light() -> None:
    code = f"import sys, xpcap; sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"import xpcap loads {result.stderr}"


def test_every_message_installs_an_extra_by_one_command_and_each_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "xpcap").rglob("*.py")}
    assert [name for name, text in sources.items() if "pip install" in text] == ["xpcap/errors.py"]
    named = re.findall(r"""\binstall\(["'](\w+)["']\)|\brequire\(\w+, "(\w+)\"""", "".join(sources.values()))
    assert {one or other for one, other in named} == {"bench", "images", "kernels", "mpi", "timm"} <= set(extras)
    assert install("images") == "pip install '.[images]'"
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    commands = re.findall(r"pip install ([^`\s#|]+)", "".join(page.read_text(encoding="utf-8") for page in pages))
    assert len(commands) > 9
    for command in commands:
        assert command == "." or set(re.fullmatch(r"'\.\[([\w,]+)\]'", command)[1].split(",")) <= set(extras), command  # type: ignore[index]


def test_types_are_shipped() -> None:
    assert (ROOT / "xpcap" / "py.typed").is_file()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["xpcap"]}  # the whole folder: nothing is left out


@pytest.mark.parametrize(
    "error", [*(kind("f: `out` exists") for kind in EXPECTED), unknown("f", "cell", "gru", ["rnn"]), Stopped(signal.SIGTERM, 7, 2)]
)
def test_errors_survive_copies_and_pickles(error: BaseException) -> None:
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


# Runs


@pytest.fixture
def options(few_pictures: None) -> TrainOptions:
    """A run to train from x.h5 in the working folder, which has pictures beside it; every path is text."""
    write_dataset("x.h5", few(0))
    write_pictures(Path("pictures"), few(0), "val")
    return TrainOptions(data="x.h5", out="runs/x", hidden=8, wordvec=4, epochs=1, score_epochs=0, dropout=0.2, lr_decay=0.9, inject="init")


def test_text_works_wherever_a_path_does(options: TrainOptions) -> None:
    trained = train_run(options).run
    assert trained.path == Path("runs/x")
    run = open_run("runs/x")
    assert evaluate_run(run, "x.h5").n == evaluate_run(run).n == 14
    captions, skipped = caption_files(run, ["pictures", "none.png"])
    assert (len(captions), [one.image for one in skipped]) == (14, ["none.png"])
    runs.write_caption_page("page.html", run, captions, runs.look_at_files)
    runs.write_caption_png("page.png", captions, runs.look_at_files)
    state = load_state("runs/x/last.safetensors", run.model.params.shapes)
    save_state("copy.safetensors", state)
    assert load_state("copy.safetensors", run.model.params.shapes).iteration == state.iteration > 0
    again = train_run(dataclasses.replace(options, epochs=2, resume=True)).run
    assert again.meta["epoch"] in (1, 2)
    assert len(Path("runs/x/history.jsonl").read_text().splitlines()) == 2


def test_a_run_stores_the_models_config_flat_and_opens_it_with_the_dropout_it_was_trained_with(options: TrainOptions) -> None:
    run = train_run(options).run
    stored = json.loads(Path("runs/x/config.json").read_text())
    expected = ModelConfig(len(run.vocabulary), (few(0).feature_dim,), 4, 8, "lstm", 0.2, "init")
    assert run.model.config == expected == model_config(Path("config.json"), stored)
    assert {name: stored[name] for name in ("vocabulary", "feature_shape", "wordvec", "hidden", "cell", "dropout", "inject")} == {
        **dataclasses.asdict(expected),
        "feature_shape": [few(0).feature_dim],
    }
    assert "feature_dim" not in stored
    batch = few(0).minibatch("val", np.arange(4))
    assert run.model.score(*batch).nll == run.model.score(*batch).nll  # dropout is for training alone
    np.testing.assert_array_equal(run.model.sample(batch[0], 5), run.model.sample(batch[0], 5))
    assert float(run.model.loss(*batch)[0]) != float(run.model.loss(*batch)[0])


def test_run_folders_from_before_there_were_feature_shapes_and_ways_of_the_image_open_and_go_on(options: TrainOptions) -> None:
    run = train_run(options).run
    path = Path("runs/x/config.json")
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {**{key: value for key, value in config.items() if key not in ("feature_shape", "inject")}, "feature_dim": config["feature_shape"][0]}
        )
    )
    old = open_run("runs/x")
    assert old.model.config == run.model.config
    assert old.config == run.config
    train_run(dataclasses.replace(options, epochs=2, resume=True))
    assert json.loads(path.read_text())["feature_shape"] == config["feature_shape"]


def test_open_run_draws_no_random_number(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    train_run(options)
    made: list[tuple[np.random.Generator, Any]] = []
    original = np.random.default_rng

    def remembered(*seed: Any) -> np.random.Generator:
        rng = original(*seed)
        made.append((rng, rng.bit_generator.state))
        return rng

    monkeypatch.setattr(np.random, "default_rng", remembered)
    legacy = np.random.get_state()[1].copy()
    open_run("runs/x")
    assert all(rng.bit_generator.state == state for rng, state in made)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)


@pytest.mark.parametrize(("text", "cause"), [("[]", "has format"), ('{"format": 1}', "has data None"), ("nonsense", "is not JSON")])
def test_a_config_that_is_none_names_its_file(text: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=cause) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
