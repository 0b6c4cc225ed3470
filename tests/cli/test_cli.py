"""The commands as people type them: what they print, leave behind, and say when something is
wrong.
"""

import dataclasses
import errno
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from commands import SMALL, answer, call, failing, few, good
from programs import program
from refusals import refuses
from trainings import Training, completed_for, varied

from xpcap import CaptioningRNN, CaptioningSolver, Watcher, generate, open_run, plain
from xpcap.backend import probe
from xpcap.cli import main, verify
from xpcap.cli.group import in_options
from xpcap.cli.shared import command_line
from xpcap.cli.train import Progress, duration
from xpcap.cs231n.verify import Row
from xpcap.data import CaptionData, Vocabulary, open_data, tokenize, write_dataset
from xpcap.errors import DataError
from xpcap.metrics import corpus_bleu, unigram_bleu
from xpcap.runs.folder import RERANKING, START_RERANKING
from xpcap.runs.recipe import Recipe
from xpcap.trainer.train import train_run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("few_pictures")


def epoch_lines(output: str) -> list[str]:
    """What is printed of each epoch, but for its time."""
    lines = output.splitlines()
    return [line.rpartition("  ")[0] for line in lines if line.startswith("epoch ")]


def test_train_alone_generates_learns_and_leaves_a_run_folder_that_a_program_leaves_too(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal options give equal bytes, and the best parameters are kept when later ones are worse."""
    Path("runs/pictures-lstm").mkdir(parents=True)
    options = *SMALL, "--feature-scaling", "standardize"
    output = good("train", *options, "--verbose").output
    folder = Path("runs/pictures-lstm-2")
    for words in (
        "drawing 21,500 pictures of shapes",
        "training an LSTM of 16 units on 60 pictures with 300 captions of 56 words; the run folder"
        f" is {folder}",
        f"data generated  out {folder}",
        "hidden 16",
        "epochs 2  score_epochs 0  batch_size 32",
        "2 epochs of 10 steps, about ",
        "epoch  2",
        "Captions come from epoch 2 of 2.",
        "named exactly",
        f"wrote {folder}; open {folder}/index.html",
        f"export {folder} --web page",
        "model  ",
        "truth  ",
        "BLEU-1..4",
        "perplexity",
    ):
        assert words in output
    names = {path.name for path in folder.iterdir()}
    page = (ROOT / "docs/reference/files.md").read_text("utf-8").partition("## Run folder")[2]
    rows = re.findall(r"^\| (`[^|]+) \|", page.partition("\n## ")[0], re.MULTILINE)
    others = {RERANKING, START_RERANKING}  # of other runs
    assert names == set(re.findall(r"`([\w.-]+)/?`", " ".join(rows))) - others
    for name in "best.safetensors last.safetensors history.jsonl vocab.json config.json".split():
        assert (run / name).read_bytes() == (folder / name).read_bytes(), name

    class Spoil(Watcher):
        def epoch(self, solver: Any) -> None:
            if solver.epoch == 2:  # the third begins far from where it ended
                solver.model.params.flat[...] += 1

    recipe = dataclasses.replace(open_run(folder).config.recipe, out="program", epochs=3)
    train_run(recipe, watchers=[Spoil()])
    by_program = epoch_lines(capsys.readouterr().out)
    assert by_program[:2] == epoch_lines(output) != []
    history = [json.loads(line) for line in Path("program/history.jsonl").read_text().splitlines()]
    losses = [record["val_loss"] for record in history]
    assert losses[2] > losses[0] > losses[1]
    assert answer("evaluate", "program")["loss"] == pytest.approx(losses[1], rel=1e-5)
    best, last = (open_run("program").path / f"{name}.safetensors" for name in ("best", "last"))
    assert best.read_bytes() != last.read_bytes()


def test_each_option_of_train_reaches_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Recipe] = []

    def train_run(recipe: Recipe, **_: Any) -> None:
        recipes.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr("xpcap.cli.train.train_run", train_run)
    options = varied()
    assert call("train", *Training(None, options).arguments()).exit_code == 130
    assert {name: getattr(recipes[0], name) for name in options} == options


def test_evaluate_and_caption_say_what_the_run_says_of_its_data(run: Path) -> None:
    data, opened = open_data(run / "data.h5"), open_run(run)
    train_mean = data.split("train").features.mean(axis=0)
    np.testing.assert_allclose(opened.scaling.mean, train_mean, rtol=1e-5, atol=1e-7)

    result, val = answer("evaluate", run), data.split("val")
    assert set(result) >= {"unigram_bleu", "seconds", "protocol"}
    assert (result["split"], result["n"], list(result["captions"])) == ("val", 14, val.images)
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    least = min(record["val_perplexity"] for record in history)
    assert result["perplexity"] == pytest.approx(least, rel=1e-4)
    assert "<" not in "".join(result["captions"].values())
    assert "BLEU-1..4" in good("evaluate", run, "--split", "train").output

    found = [caption.split() for caption in result["captions"].values()]
    known = [
        [word for word in tokenize(text) if word in data.vocabulary.word_to_idx]
        for text in data.texts("val")
    ]
    of_texts = [found[number] for number in val.image_idxs.tolist()]
    assert result["unigram_bleu"] == pytest.approx(unigram_bleu(known, of_texts))
    texts = data.references("val")
    references = [[*map(tokenize, texts[number])] for number in range(14)]
    assert result["bleu"] == pytest.approx(corpus_bleu(references, found))

    said = answer("caption", run, "--split", "val", "-n", 5)
    assert len(said) == 5
    for picture in said:
        assert set(picture) == {"image", "caption", "probabilities", "references"}
        assert picture["references"] == texts[val.images.index(picture["image"])]
        assert picture["caption"] == result["captions"][picture["image"]]
    assert good("caption", run, "-n", 3).output.count("truth") == 3


def test_scores_are_printed_before_a_table_that_cannot_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for how, word in (([], "BLEU-1..4"), (["--json"], '"bleu"')):
        result = call("evaluate", run, "--csv", "s.csv", *how)
        assert result.exit_code == 1
        assert word in result.stdout
        assert "Error: evaluate: s.csv: No space left on device, expected room" in result.stderr


def test_scores_do_not_depend_on_the_vocabulary_of_a_data_set_or_where_it_cut_captions(
    run: Path, tmp_path: Path
) -> None:
    """The same text in files of another vocabulary, and of fewer words a caption."""
    data = open_data(run / "data.h5")
    words = data.vocabulary.idx_to_word
    others = data.encoded_with(Vocabulary([*words[:4], "zebra", *reversed(words[4:])]), "val")
    captions = data.vocabulary.encode(data.texts("val"), 3)
    val = dataclasses.replace(data.split("val"), captions=captions)
    write_dataset(tmp_path / "words.h5", others)
    write_dataset(tmp_path / "short.h5", CaptionData(data.vocabulary, {"val": val}))
    ours = answer("evaluate", run)
    for name in ("words.h5", "short.h5"):
        theirs = answer("evaluate", run, "--data", tmp_path / name)
        for key in ("bleu", "unigram_bleu", "perplexity", "captions"):
            assert theirs[key] == ours[key], (name, key)


def test_verify_and_info_speak_json(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("a case", "numpy", "float64", 1e-9, 1e-8, True)]
    monkeypatch.setattr(verify, "run_verify", lambda: rows)
    assert answer("verify") == [rows[0]._asdict()]
    assert "1 of 1 rows pass" in good("verify").output
    rows.append(Row("another", "numpy", "float64", float("nan"), 1e-8, False))
    result = call("verify")
    assert (result.exit_code, "1 of 2 rows pass" in result.output) == (1, True)
    assert call("verify", "--json").exit_code == 1

    about = answer("info")
    assert about["code"] == "fast"
    with plain():
        assert answer("info")["code"] == "plain"
        assert "computes by plain code" in good("info").output
    assert about["backends"]["numpy"]["usable"] is True
    assert about["backends"]["cupy"]["usable"] or about["backends"]["cupy"]["reason"]
    assert answer("info", run / "data.h5")["splits"]["val"] == {"pictures": 14, "captions": 70}
    assert answer("info", run)["config"]["hidden"] == 16
    for arguments in ([], [run], [run / "data.h5"]):
        assert good("info", *arguments).output


def test_prepare_writes_a_dataset_that_trains(rng: np.random.Generator) -> None:
    images = [f"{number}.jpg" for number in range(12)]
    captions = [
        f"{image}#{k}\tA {colour} thing .\n"
        for image, colour in zip(images, ("blue", "red") * 6, strict=True)
        for k in range(2)
    ]
    Path("token.txt").write_text("".join(captions))
    Path("train.txt").write_text("\n".join(images[:8]))
    Path("val.txt").write_text("\n".join(images[8:]))
    np.savez("features.npz", names=images, features=rng.standard_normal((12, 5)).astype("f4"))
    lists = "--split train=train.txt --split val=val.txt".split()
    made = ["prepare", "token.txt", *lists, "--features", "features.npz", "--out"]
    assert "8 pictures" in good(*made, "small.h5").output
    about = answer("info", "small.h5")
    assert (about["source"]["min_count"], about["max_words"], about["vocabulary"]) == (1, 20, 4 + 4)
    good(*made, "other.h5", "--min-count", 9, "--max-words", 2)
    about = answer("info", "other.h5")
    assert (about["max_words"], about["vocabulary"]) == (2, 4 + 2)  # a, thing
    failing([*made, "small.h5"], "small.h5 exists")

    output = good("train", "small.h5", "--no-neighbours", *SMALL).output
    assert "the run folder is runs/small-lstm" in output
    assert not Path("runs/small-lstm/data.h5").exists()
    evaluate = ["evaluate", "runs/small-lstm"]
    assert answer(*evaluate)["n"] == 4
    Path("small.h5").rename("moved.h5")
    failing(evaluate, "small.h5, the data of", "is gone", "give its new path as --data")
    assert answer(*evaluate, "--data", "moved.h5")["n"] == 4
    Path("other.h5").rename("small.h5")
    failing(evaluate, "small.h5, the data of", "has changed", "give it as --data")


def test_generated_data_that_was_swapped_is_noticed(run: Path) -> None:
    (run / "data.h5").unlink()
    write_dataset(run / "data.h5", few(1))
    words = "data.h5, the data of", "has changed since training", "give it as --data"
    failing(["evaluate", run], *words)


WRITING = """
import resource, sys
from pathlib import Path
from xpcap.cli import main
from xpcap.data import open_data, write_dataset

data = open_data(sys.argv[1])
write = lambda: write_dataset(Path("big.h5"), data)
main.add_command(__import__("click").Command("write", callback=write))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for size in (0, 4, 16):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * size, hard))
    try:
        main(["write"])
    except SystemExit as ended:
        assert ended.code == 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file sizes to set")
def test_no_room_for_a_dataset_is_one_line_and_leaves_nothing(run: Path) -> None:
    """A limit on the size of files stands in for a full disk: writing fails after so many kB."""
    result = program(WRITING, run / "data.h5", flags=(), folder=Path.cwd())
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [
        "Error: write: big.h5: File too large"
    ] * 3
    assert list(Path().glob("*big.h5*")) == []


MISUSED = """
trian | 'trian' | did you mean 'train'
train --hiden 5 | --hiden | --hidden
train --cell lsmt | --cell | 'lsmt' | rnn, lstm | did you mean 'lstm'
train --backend cupi | 'cupi' | numpy, cupy, auto | did you mean 'cupy'
train --epochs -1 | --epochs is -1, expected a whole number in 0..1000000
train --dropout 1 | --dropout is 1.0, expected a number in [0, 1)
train --resume | --resume requires --out
prepare --split train --features f --out o | 'train' | NAME=LIST
prepare --split a=x --split a=y --features f --out o | 'a=y' | each split once
score said.json | --data
caption RUN RUN | RUN is given as a second run, expected one run | --against RUN
caption RUN a.png RUN | RUN is given as a second run, expected one run | --against RUN
evaluate RUN RUN --beam 5 | RUN is given as a second run, expected one run | --against RUN
export RUN RUN --onnx out | RUN is given as a second run, expected one run | --against RUN
look RUN RUN a.png | RUN is given as a second run, expected one run | --against RUN
"""
ABSENT = """
train nothing.h5 | nothing.h5 does not exist | prepare
train --out RUN | exists | never overwritten | choose another --out, continue it with --resume
train --out file/run | file | Not a directory
train --out new/r SMALL --lr 1e30 | iteration 2 has loss | before it the loss was | learning rate | 1e+30
evaluate nothing | nothing does not exist | run folder
evaluate RUN --split test | 'test' | train, val
evaluate RUN --data nothing.h5 | nothing.h5
caption RUN/data.h5 | run folder
info nothing | nothing does not exist
prepare no.txt --split a=no.txt --features no.npz --out o.h5 | no.txt | does not exist
"""


@pytest.mark.parametrize(
    ("row", "status"),
    [
        *((row, 2) for row in MISUSED.split("\n")[1:-1]),
        *((row, 1) for row in ABSENT.split("\n")[1:-1]),
    ],
)
def test_misuse_exits_2_with_the_near_name_and_what_is_absent_1(
    row: str, status: int, run: Path
) -> None:
    Path("file").write_text("")
    Path("run").rename("RUN")
    line, *words = row.split(" | ")
    failing(line.replace("SMALL", " ".join(SMALL)).split(), *words, status=status)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission_fails_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    failing(["train", "--out", tmp_path / "locked" / "run", *SMALL], "locked", "Permission denied")


CSV, PREPARED = b"image,caption\na.jpg,a dog\n", "prepare 'my captions.csv' --pictures photos"
EXCEL, SAVE = (
    b"PK\3\4....xl/workbook.xml",
    "c.xlsx is an Excel workbook: save it as CSV UTF-8 first",
)


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("my captions.csv", CSV, ["my captions.csv is text, such as a table", PREPARED]),
        ("c.xlsx", EXCEL, [SAVE, "prepare c.csv --pictures photos --out c.h5"]),
    ],
)
def test_captions_given_to_train_are_answered_with_the_commands_that_train_on_them(
    name: str, head: bytes, words: list[str]
) -> None:
    Path(name).write_bytes(head)
    result = call("train", name)
    assert result.exit_code == 1
    for word in (*words, "\n  xpcap train ", ".h5"):
        assert word in result.output.replace("python cli.py", "xpcap")
    assert [path.name for path in Path().iterdir()] == [name]


def test_cupy_without_a_device_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.cupy_status.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    unusable = "backend cupy cannot be used: cupy cannot be imported"
    for command in ("train", "verify"):
        failing([command, "--backend", "cupy"], unusable, "--backend numpy")
    monkeypatch.setenv("XPCAP_BACKEND", "cupy")
    failing(["verify"], "backend cupy")
    probe.cupy_status.cache_clear()


def test_a_damaged_run_ends_with_exit_code_1_and_the_librarys_message(run: Path) -> None:
    (run / "vocab.json").write_text("[")
    with pytest.raises(DataError) as caught:
        open_run(run)
    result = call("evaluate", run)
    assert (result.exit_code, result.output) == (1, f"Error: {caught.value}\n")


# Flags are the command line's alone


def test_errors_of_the_library_speak_of_parameters(run: Path) -> None:
    with refuses(DataError, "choose another `out`, continue it with `resume`"):
        train_run(Recipe(out=run, score_epochs=0))


@pytest.mark.parametrize("name", main.commands)
def test_each_parameter_of_a_command_is_put_in_its_own_words(name: str) -> None:
    params = main.commands[name].params
    for param in params:
        is_option = isinstance(param, click.Option)
        word = param.opts[-1] if is_option else param.metavar or str(param.name).upper()
        shown = in_options(f"f: `{param.name}` is 3, expected 4", params)
        assert shown == f"f: {word} is 3, expected 4"
    others = "f: `nobody's` and `unheard_of` stay"
    assert in_options(others, params) == others


@pytest.mark.parametrize("file", ["my`data`.h5", "`data`.h5", "a/`data`/b.h5", "x`data`"])
def test_backquotes_in_the_name_of_a_file_are_no_option(file: str) -> None:
    shown = in_options(f"f: {file} is gone; give `data`.", main.commands["train"].params)
    assert shown == f"f: {file} is gone; give DATA."


def test_python_m_xpcap_is_the_command_line() -> None:
    command = [sys.executable, "-m", "xpcap", "info", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    head, *lines = done.stdout.splitlines()
    assert head == "Usage: python -m xpcap info [OPTIONS] [FILE]"
    assert lines == good("info", "--help").output.splitlines()[1:]


@pytest.mark.parametrize(
    ("program", "begins"),
    [
        ("/usr/bin/xpcap", "xpcap train"),
        ("/usr/lib/xpcap/__main__.py", "xpcap train"),  # python -m xpcap
        ("cli.py", "python cli.py train"),
        ("my cells/mgu.py", "python 'my cells/mgu.py' train"),
    ],
)
def test_a_command_to_type_is_of_the_program_that_runs(
    program: str, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "train"])
    assert command_line("train", "my data").startswith(begins)


class Raising:
    """A finder that lets the import of the command line end in an exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "xpcap.cli":
            raise self.error


def test_a_python_without_packages_and_ctrl_c_during_the_imports_are_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other failing imports keep their traceback."""

    def run_file(error: BaseException) -> Any:
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "xpcap.cli")
            patch.setattr(sys, "meta_path", [Raising(error), *sys.meta_path])
            with pytest.raises((SystemExit, ImportError)) as caught:
                runpy.run_path(str(ROOT / "cli.py"), run_name="__main__")
        return caught.value

    ended = run_file(ModuleNotFoundError("No module named 'numpy'", name="numpy"))
    assert isinstance(ended, SystemExit)
    for words in (
        f"Error: xpcap needs the package numpy, which {sys.executable} does not have.\n",
        "source .venv/bin/activate",
        ".venv\\Scripts\\activate",
        "python -m venv .venv",
        "pip install .",
    ):
        assert words in str(ended.code)
    ended = run_file(KeyboardInterrupt())
    assert (ended.code, capsys.readouterr().err) == (130, "interrupted; nothing has begun\n")
    for error in (
        *(ModuleNotFoundError("", name=name) for name in ("xpcap.nothing", "numpy.nothing", "x")),
        ImportError("cannot import name 'nothing' from 'xpcap'", name="xpcap"),
    ):
        assert run_file(error) is error


# What training says, and to whom


def watched(progress: Progress, watcher: Watcher, epochs: int) -> CaptioningSolver:
    """A solver of six steps an epoch, whose progress is told."""
    progress.stage(completed_for(5000, data="own.h5", out="run"))
    data = generate(0, train=6, val=2)
    model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 4, 4, "gru")
    how: dict[str, Any] = {"batch_size": 5, "num_epochs": epochs, "verbose": False}
    return CaptioningSolver(model, data, **how, watchers=[progress, watcher])


def test_the_time_of_training_is_told_once_from_the_steps_after_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Stop(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            if solver.iteration == 5:
                raise KeyboardInterrupt

    seconds = iter([5.0, 6.0, 7.0, 8.0])  # at the end of each step
    solver = watched(Progress(verbose=False, clock=lambda: next(seconds)), Stop(), 40)
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    first, few_captions, second = capsys.readouterr().out.splitlines()
    assert first.startswith("training a GRU of 4 units on 6 pictures with 30 captions of ")
    assert few_captions == (
        "few captions: batches of 64, 16 epochs, then 5 epochs of self-critical training; too few to"
        " train on alone: each caption will be copied from the most similar training photo;"
        ' "Train on your photos" in the documentation has what to expect, and how a warm start helps'
    )
    assert second == (
        "40 epochs of 6 steps, about 4 minutes at the speed of the first 3 steps, plus the scores"
        " after each epoch; then a second stage of 5 epochs"
    )


def test_the_batches_of_a_validation_count_for_no_estimate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are told as steps, at the end of an epoch."""
    asked, pauses = list[int](), list[int]()

    def clock() -> float:
        asked.append(solver.iteration)
        return solver.iteration / 10

    class Pauses(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            pauses.append(solver.iteration)

    solver = watched(Progress(verbose=False, clock=clock), Pauses(), 2)
    solver.train()
    assert pauses.count(6) > 1  # after the sixth step there is a validation
    assert asked == [1, 2, 3, 4, 5]
    assert capsys.readouterr().out.count("2 epochs of 6 steps, about ") == 1


def test_times_are_told_in_round_words() -> None:
    for seconds, words in {
        0.1: "5 seconds",
        61: "60 seconds",
        95: "2 minutes",
        5600: "93 minutes",
        7200: "2.0 hours",
    }.items():
        assert duration(seconds) == words


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
@pytest.mark.slow
def test_a_command_whose_reader_has_gone_ends_quietly_as_unix_tools_do(run: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, ROOT / "cli.py", "caption", run]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.stderr, done.returncode) == (b"", 141)


FEW_PICTURES = """
import commands
from xpcap.cli import main
from xpcap.trainer import train

train.generate = commands.few
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
@pytest.mark.slow
def test_training_whose_reader_has_gone_is_saved_and_says_how_to_go_on(tmp_path: Path) -> None:
    path, out = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers"))), tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", FEW_PICTURES, "train", "--out", out, *SMALL, "--epochs", "100000"],
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("epoch  1"):
            assert process.poll() is None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in errors
    assert "output pipe closed; training stopped and saved; continue with" in errors
    assert f"train --out {out} --resume" in errors
    assert open_run(out).meta["epoch"] >= 1
