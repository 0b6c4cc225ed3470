"""The commands as people type them: what they print, leave behind, and say when something is
wrong.
"""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from commands import SMALL, answer, call, failing, good
from programs import program
from refusals import refuses
from trainings import completed_for

from xpcap import CaptioningRNN, CaptioningSolver, Watcher, files, generate, open_run, plain, runs
from xpcap.cli import main
from xpcap.cli.group import in_options
from xpcap.cli.shared import command_line
from xpcap.cli.train import Progress, duration
from xpcap.data import CaptionData, Vocabulary, open_data, tokenize, write_dataset
from xpcap.device import probe
from xpcap.errors import DataError
from xpcap.metrics import corpus_bleu, unigram_bleu
from xpcap.runs import saver
from xpcap.runs.folder import RANKING, START_RANKING

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("few_pictures")


def test_train_alone_generates_learns_and_leaves_a_run_folder() -> None:
    output = good("train", *SMALL).output
    for words in (
        "drawing 21,500 pictures of shapes",
        (
            "training an LSTM of 16 units on 60 pictures with 300 captions of 56 words; the run"
            " folder is runs/pictures-lstm"
        ),
        "2 epochs of 10 steps, about ",
        "epoch  2",
        "Captions come from epoch 2 of 2.",
        "named exactly",
        "wrote runs/pictures-lstm; open runs/pictures-lstm/index.html",
        "export runs/pictures-lstm --web page",
        "model  ",
        "truth  ",
        "BLEU-1..4",
        "perplexity",
    ):
        assert words in output
    names = {path.name for path in Path("runs/pictures-lstm").iterdir()}
    page = (ROOT / "docs/reference/files.md").read_text("utf-8").partition("## Run folder")[2]
    rows = re.findall(r"^\| (`[^|]+) \|", page.partition("\n## ")[0], re.MULTILINE)
    others = {RANKING, START_RANKING}  # of other runs
    assert names == set(re.findall(r"`([\w.-]+)/?`", " ".join(rows))) - others
    again = good("train", *SMALL, "--verbose").output
    # A second run gets a folder of its own
    assert "the run folder is runs/pictures-lstm-2" in again
    assert "data generated  out runs/pictures-lstm-2" in again
    assert "hidden 16" in again
    assert "epochs 2  score_epochs 0  batch_size 32" in again
    assert "hidden 16" not in output


def test_equal_runs_leave_equal_bytes(run: Path, tmp_path: Path) -> None:
    good("train", "--out", tmp_path / "again", *SMALL, "--feature-scaling", "standardize")
    for name in "best.safetensors last.safetensors history.jsonl vocab.json config.json".split():
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_generated_data_that_was_swapped_is_noticed(run: Path, tmp_path: Path) -> None:
    good("train", "--seed", 1, "--out", tmp_path / "other", *SMALL)
    shutil.copyfile(tmp_path / "other" / "data.h5", run / "data.h5")
    failing(
        ["evaluate", run], "data.h5, the data of", "has changed since training", "give it as --data"
    )


def test_evaluate_prints_one_json_object(run: Path) -> None:
    result = answer("evaluate", run)
    assert set(result) >= {"unigram_bleu", "seconds", "protocol"}
    sizes = result["n"], len(result["bleu"]), len(result["captions"])
    assert (result["split"], sizes) == ("val", (14, 4, 14))
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert result["perplexity"] == pytest.approx(
        min(record["val_perplexity"] for record in history), rel=1e-4
    )
    assert "<" not in "".join(result["captions"].values())
    assert "BLEU-1..4" in good("evaluate", run, "--split", "train").output


def test_scores_are_printed_before_a_table_that_cannot_be_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "_create", full)
    for how, word in (([], "BLEU-1..4"), (["--json"], '"bleu"')):
        result = call("evaluate", run, "--csv", "s.csv", *how)
        assert result.exit_code == 1
        assert word in result.stdout
        assert "Error: evaluate: s.csv: No space left on device, expected room" in result.stderr


def test_scores_fit_a_terminal_of_80_columns(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = good("evaluate", run, "--doctor").output.splitlines()
    scores = lines[: lines.index("")]
    assert max(map(len, scores)) <= 80
    first = next(number for number, line in enumerate(scores) if line.startswith("BLEU-1..4"))
    assert [line[:9].strip() for line in scores[first : first + 4]] == ["BLEU-1..4", "", "", ""]


def test_ctrl_c_during_the_imports_is_one_line() -> None:
    code = """if True:
        import runpy, sys
        class Stopping:
            def find_spec(self, name, *rest):
                if name == "click":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Stopping())
        runpy.run_path("cli.py", run_name="__main__")
    """
    done = program(code, status=130)
    assert done.stderr == "interrupted; nothing has begun\n"


def test_evaluate_encodes_other_data_with_the_runs_vocabulary_and_scaling(
    run: Path, tmp_path: Path
) -> None:
    """The same pictures in a file whose own vocabulary has other ids: the scores do not move."""
    data = open_data(run / "data.h5")
    words = data.vocabulary.idx_to_word
    other = data.encoded_with(Vocabulary([*words[:4], "zebra", *reversed(words[4:])]), "val")
    write_dataset(tmp_path / "other.h5", other)
    ours, theirs = (
        answer("evaluate", run, *args) for args in ([], ["--data", tmp_path / "other.h5"])
    )
    for key in ("bleu", "unigram_bleu", "perplexity", "captions"):
        assert theirs[key] == ours[key]


def test_caption_prints_pictures_with_what_people_wrote(run: Path) -> None:
    result = answer("caption", run, "--split", "val", "-n", 3)
    assert len(result) == 3
    assert set(result[0]) == {"image", "caption", "probabilities", "references"}
    assert len(result[0]["references"]) == 5
    assert good("caption", run, "-n", 3).output.count("truth") == 3


def test_runs_differ_by_cell_and_options_reach_the_model(tmp_path: Path) -> None:
    how = "--cell gru --feature-scaling none --dropout 0 --clip 0 --batch-size 50 --seed 4"
    result = good("train", "--out", tmp_path / "r", *SMALL, *how.split())
    opened = open_run(tmp_path / "r")
    assert opened.model.cell_type == "gru"
    assert "training a GRU of 16 units" in result.output
    assert "A GRU captioner, scored on" in (tmp_path / "r" / "index.html").read_text()
    assert opened.scaling.mean is None
    recipe = opened.config.recipe
    assert (recipe.batch_size, recipe.seed, recipe.dropout) == (50, 4, 0)


def test_the_scaling_is_fitted_on_the_train_split_alone(run: Path) -> None:
    data, opened = open_data(run / "data.h5"), open_run(run)
    np.testing.assert_allclose(
        opened.scaling.mean, data.split("train").features.mean(axis=0), rtol=1e-5, atol=1e-7
    )


@pytest.mark.slow
def test_best_keeps_the_epoch_with_the_least_validation_loss(tmp_path: Path) -> None:
    class Spoil(Watcher):
        def epoch(self, solver: Any) -> None:
            if solver.epoch == 2:
                # The third epoch begins far from where the second ended
                solver.model.params.flat[...] += 1

    runs.train_run(
        runs.Recipe(
            out=tmp_path / "r", hidden=16, wordvec=8, epochs=3, score_epochs=0, select="loss"
        ),
        watchers=[Spoil()],
    )
    losses = [
        json.loads(line)["val_loss"]
        for line in (tmp_path / "r" / "history.jsonl").read_text().splitlines()
    ]
    assert losses[2] > losses[0] > losses[1]
    assert (tmp_path / "r" / "best.safetensors").read_bytes() != (
        tmp_path / "r" / "last.safetensors"
    ).read_bytes()
    assert answer("evaluate", tmp_path / "r")["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_scores_are_those_of_the_captions_against_the_text(run: Path) -> None:
    data, result = open_data(run / "data.h5"), answer("evaluate", run)
    said = {
        i: result["captions"][image].split() for i, image in enumerate(data.split("val").images)
    }
    texts, pictures = data.texts("val"), data.split("val").image_idxs.tolist()
    known = [
        [word for word in tokenize(text) if word in data.vocabulary.word_to_idx] for text in texts
    ]
    assert result["unigram_bleu"] == pytest.approx(unigram_bleu(known, [said[i] for i in pictures]))
    references = [
        [tokenize(text) for text, picture in zip(texts, pictures, strict=True) if picture == i]
        for i in said
    ]
    assert result["bleu"] == pytest.approx(corpus_bleu(references, list(said.values())))


def test_captions_stand_beside_their_own_pictures_references(run: Path) -> None:
    data = open_data(run / "data.h5")
    captions = answer("evaluate", run)["captions"]
    numbers = {image: i for i, image in enumerate(data.split("val").images)}
    for picture in answer("caption", run, "-n", 5):
        assert picture["references"] == data.references("val")[numbers[picture["image"]]]
        assert picture["caption"] == captions[picture["image"]]


@pytest.mark.usefixtures("verify_once")
def test_verify_and_info_speak_json(run: Path) -> None:
    rows = answer("verify")
    assert all(
        set(row) == {"case", "backend", "dtype", "error", "tolerance", "passed"} for row in rows
    )
    about = answer("info")
    assert about["way"] == "fast"
    with plain():
        assert answer("info")["way"] == "plain"
        assert "computes by the plain equations alone" in good("info").output
    assert about["backends"]["numpy"]["usable"] is True
    assert about["backends"]["cupy"]["usable"] or about["backends"]["cupy"]["reason"]
    assert answer("info", run / "data.h5")["splits"]["val"] == {"pictures": 14, "captions": 70}
    assert answer("info", run)["config"]["hidden"] == 16
    for args in ([], [run], [run / "data.h5"]):
        assert good("info", *args).output


def test_verify_fails_where_a_row_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpcap.cli import verify
    from xpcap.verify import Row

    monkeypatch.setattr(
        verify, "run_verify", lambda: [Row("a case", "numpy", "float64", float("nan"), 1e-8, False)]
    )
    result = call("verify")
    assert result.exit_code == 1
    assert "0 of 1 rows pass" in result.output


def test_prepare_writes_a_dataset_that_trains(tmp_path: Path, rng: np.random.Generator) -> None:
    images = [f"{i}.jpg" for i in range(12)]
    Path("token.txt").write_text(
        "".join(
            f"{image}#{k}\tA {'red' if i % 2 else 'blue'} thing .\n"
            for i, image in enumerate(images)
            for k in range(2)
        )
    )
    Path("train.txt").write_text("\n".join(images[:8]))
    Path("val.txt").write_text("\n".join(images[8:]))
    np.savez("features.npz", names=images, features=rng.standard_normal((12, 5)).astype("f4"))
    made = (
        "prepare token.txt --split train=train.txt --split val=val.txt --features features.npz "
        "--out small.h5"
    ).split()
    assert "8 pictures" in good(*made).output
    about = answer("info", "small.h5")
    assert (about["source"]["min_count"], about["max_words"], about["vocabulary"]) == (1, 20, 4 + 4)
    good(*made[:-1], "other.h5", "--min-count", 9, "--max-words", 2)
    about = answer("info", "other.h5")
    assert (about["max_words"], about["vocabulary"]) == (2, 4 + 2)  # a, thing
    failing(made, "small.h5 exists")
    assert "the run folder is runs/small-lstm" in good("train", "small.h5", *SMALL).output
    assert not Path("runs/small-lstm/data.h5").exists()
    assert answer("evaluate", "runs/small-lstm")["n"] == 4
    Path("small.h5").rename("moved.h5")
    failing(
        ["evaluate", "runs/small-lstm"],
        "small.h5, the data of",
        "is gone",
        "give its new path as --data",
    )
    assert answer("evaluate", "runs/small-lstm", "--data", "moved.h5")["n"] == 4
    Path("other.h5").rename("small.h5")
    failing(["evaluate", "runs/small-lstm"], "small.h5, the data of", "has changed", "--data")


def test_scores_do_not_depend_on_where_captions_were_cut(tmp_path: Path, run: Path) -> None:
    """The same text in a file prepared with fewer words a caption: perplexity and BLEU take
    captions whole.
    """
    data = open_data(run / "data.h5")
    short = CaptionData(
        data.vocabulary,
        {
            "val": dataclasses.replace(
                data.split("val"), captions=data.vocabulary.encode(data.texts("val"), 3)
            )
        },
    )
    write_dataset(tmp_path / "short.h5", short)
    whole, cut = (
        answer("evaluate", run, *args) for args in ([], ["--data", tmp_path / "short.h5"])
    )
    for key in ("bleu", "unigram_bleu", "perplexity"):
        assert cut[key] == whole[key]


def test_a_run_is_kept_when_a_later_epoch_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Watcher):
        def epoch(self, solver: Any) -> None:
            if solver.epoch == 2:
                raise KeyboardInterrupt

    options = runs.Recipe(
        out=tmp_path / "deep" / "r", hidden=8, wordvec=4, epochs=3, score_epochs=0
    )
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(options, watchers=[Stop()])
    assert open_run(tmp_path / "deep" / "r").meta["epoch"] in (1, 2)

    def at_once(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saver, "save_state", at_once)
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(dataclasses.replace(options, out=tmp_path / "other" / "r"))
    assert not (tmp_path / "other").exists()


def test_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    failing(
        ["train", "--out", tmp_path / "new" / "r", *SMALL, "--lr", 1e30],
        "iteration 2 has loss",
        "before it the loss was",
        "learning rate",
        "1e+30",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file sizes to set")
@pytest.mark.parametrize("blocks", [0, 4, 16])
def test_no_room_for_a_dataset_is_one_line_and_leaves_nothing(
    blocks: int, run: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for a full disk: writing fails after so many kB."""
    code = (
        "import resource, sys; from pathlib import Path; from xpcap.cli import main; from"
        f" xpcap.data import open_data, write_dataset;data = open_data({str(run / 'data.h5')!r});"
        f" resource.setrlimit(resource.RLIMIT_FSIZE, ({blocks * 1024},"
        f" {blocks * 1024}));main.add_command(__import__('click').Command('write', callback=lambda:"
        f" write_dataset(Path({str(tmp_path / 'big.h5')!r}), data))); main(['write'])"
    )
    result = program(code, flags=(), status=1)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "big.h5: File too large" in result.stderr
    assert list(tmp_path.glob("*big.h5*")) == []


MISUSED = """
trian | 'trian' | did you mean 'train'
train --hiden 5 | --hiden | --hidden
train --cell lsmt | --cell | 'lsmt' | rnn, lstm | did you mean 'lstm'
train --feature-scaling standardise | did you mean 'standardize'
train --backend cupi | 'cupi' | numpy, cupy, auto | did you mean 'cupy'
train --epochs -1 | --epochs is -1, expected a whole number in 0..1000000
train --dropout 1 | --dropout is 1.0, expected a number in [0, 1)
train --lr nan | --lr is nan, expected a positive number
train --resume | --resume requires --out
prepare --split train --features f --out o | 'train' | NAME=LIST
prepare --split a=x --split a=y --features f --out o | 'a=y' | fresh name
score said.json | --data
"""


@pytest.mark.parametrize("row", MISUSED.strip().splitlines())
def test_misuse_exits_2_with_the_near_name(row: str) -> None:
    line, *words = row.split(" | ")
    failing(line.split(), *words, status=2)


@pytest.mark.parametrize(
    "line",
    [
        "caption RUN RUN",
        "caption RUN a.png RUN",
        "evaluate RUN RUN --beam 5",
        "export RUN RUN --onnx out",
        "look RUN RUN a.png",
    ],
)
def test_a_second_run_is_answered_with_what_speaks_of_two(line: str, run: Path) -> None:
    """Not captioned as a folder of pictures, such as that of its curves."""
    words = f"{run} is given as a second run, expected one run", "--against RUN"
    failing([part.replace("RUN", str(run)) for part in line.split()], *words, status=2)


ABSENT = """
train nothing.h5 | nothing.h5 does not exist | prepare
train --out RUN | exists | never overwritten
evaluate nothing | nothing does not exist | run folder
evaluate RUN --split test | 'test' | train, val
evaluate RUN --data nothing.h5 | nothing.h5
caption RUN/data.h5 | run folder
info nothing | nothing does not exist
prepare no.txt --split a=no.txt --features no.npz --out o.h5 | no.txt | does not exist
"""


@pytest.mark.parametrize("row", ABSENT.strip().splitlines())
def test_what_is_not_there_fails_with_one_line(row: str, run: Path) -> None:
    line, *words = row.split(" | ")
    failing([part.replace("RUN", str(run)) for part in line.split()], *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "my captions.csv",
            b"image,caption\na.jpg,a dog\n",
            [
                "my captions.csv is text, such as a table",
                "prepare 'my captions.csv' --pictures photos",
            ],
        ),
        (
            "c.xlsx",
            b"PK\3\4....xl/workbook.xml",
            [
                "c.xlsx is an Excel workbook: save it as CSV UTF-8 first",
                "prepare c.csv --pictures photos --out c.h5",
            ],
        ),
    ],
)
def test_captions_given_to_train_are_answered_with_the_commands_that_train_on_them(
    name: str, content: bytes, words: list[str]
) -> None:
    Path(name).write_bytes(content)
    result = call("train", name)
    assert result.exit_code == 1
    for word in (*words, "\n  xpcap train ", ".h5"):
        assert word in result.output.replace("python cli.py", "xpcap")
    assert [path.name for path in Path().iterdir()] == [name]


def test_cupy_without_a_device_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.cupy_status.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    for command in ("train", "verify"):
        failing(
            [command, "--backend", "cupy"],
            "backend cupy cannot be used: cupy cannot be imported",
            "--backend numpy",
        )
    monkeypatch.setenv("XPCAP_BACKEND", "cupy")
    failing(["verify"], "backend cupy")
    probe.cupy_status.cache_clear()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission_fails_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    failing(["train", "--out", tmp_path / "locked" / "run", *SMALL], "locked", "Permission denied")


def test_a_place_that_cannot_be_fails_with_one_line() -> None:
    Path("file").write_text("")
    failing(["train", "--out", "file/run", *SMALL], "file", "Not a directory")


def content(name: str, text: str) -> Any:
    return lambda run: (run / name).write_text(text)


def test_a_damaged_run_ends_with_exit_code_1_and_the_librarys_message(run: Path) -> None:
    (run / "vocab.json").write_text("[")
    with pytest.raises(DataError) as caught:
        open_run(run)
    result = call("evaluate", run)
    assert (result.exit_code, result.output) == (1, f"Error: {caught.value}\n")


# Flags are the command line's alone


def test_errors_of_the_library_speak_of_parameters_and_those_of_the_command_of_its_options(
    run: Path,
) -> None:
    with refuses(DataError, cause="choose another `out`, continue it with `resume`"):
        runs.train_run(runs.Recipe(out=run, score_epochs=0))
    assert "choose another --out, continue it with --resume" in call("train", "--out", run).output


@pytest.mark.parametrize("name", main.commands)
def test_each_parameter_of_a_command_is_put_in_its_own_words(name: str) -> None:
    params = main.commands[name].params
    for param in params:
        word = (
            param.opts[-1]
            if isinstance(param, click.Option)
            else param.metavar or str(param.name).upper()
        )
        shown = in_options(f"f: `{param.name}` is 3, expected 4", params)
        assert shown == f"f: {word} is 3, expected 4"
    others = "f: `nobody's` and `unheard_of` stay"
    assert in_options(others, params) == others


@pytest.mark.parametrize("file", ["my`data`.h5", "`data`.h5", "a/`data`/b.h5", "x`data`"])
def test_backquotes_in_the_name_of_a_file_are_no_option(file: str) -> None:
    params = main.commands["train"].params
    assert (
        in_options(f"f: {file} is gone; give `data`.", params) == f"f: {file} is gone; give DATA."
    )


def python(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_python_m_xpcap_is_the_command_line() -> None:
    as_module, as_file = (python(*way, "info", "--help") for way in (("-m", "xpcap"), ("cli.py",)))
    assert as_module.stdout.startswith("Usage: python -m xpcap info [OPTIONS] ")
    assert as_module.stdout.split("\n")[1:] == as_file.stdout.split("\n")[1:]


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


def test_a_python_without_packages_says_how_to_get_one_with_them() -> None:
    result = python("-E", "-s", "-S", "cli.py", "info")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 2)
    missing = re.match(
        r"Error: xpcap needs the package (\w+), which (\S+) does not have", result.stderr
    )
    assert missing
    assert missing[1] in ("numpy", "threadpoolctl")
    assert missing[2] == sys.executable
    for words in (
        "source .venv/bin/activate",
        ".venv\\Scripts\\activate",
        "python -m venv .venv",
        "pip install .",
    ):
        assert words in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "import xpcap.nothing",
        "from xpcap import nothing",
        "import numpy.nothing",
        "import json.nothing",
        "import nothing",
    ],
)
def test_other_failing_imports_keep_their_traceback(line: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "cli.py", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "xpcap").mkdir()
    (tmp_path / "xpcap/__init__.py").touch()
    (tmp_path / "xpcap/cli.py").write_text(f"{line}\n")
    result = python("cli.py", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback ")
    assert line in result.stderr


# What training says, and to whom


def test_the_time_of_training_is_told_once_from_the_steps_after_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = iter([5.0, 6.0, 7.0, 8.0])  # at the end of each step
    progress = Progress(verbose=False, clock=lambda: next(seconds))
    progress.stage(completed_for(5000, data="own.h5", out="run"))
    data = generate(0, train=6, val=2)
    model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 4, 4, "lstm")

    class Stop(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            if solver.iteration == 5:
                raise KeyboardInterrupt

    how = {"batch_size": 5, "num_epochs": 40, "verbose": False}
    solver = CaptioningSolver(model, data, **how, watchers=[progress, Stop()])
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    first, few, second = capsys.readouterr().out.splitlines()
    assert first.startswith("training an LSTM of 4 units on 6 pictures with 30 captions of ")
    assert few == (
        "few captions: batches of 64, 16 epochs, then 5 epochs of training on the score; too few to"
        " train on alone: each caption will be copied from the most similar training photo; what"
        " to expect, and how another run helps: docs/tutorials/your-photos.md"
    )
    assert (
        second
        == "40 epochs of 6 steps, about 4 minutes at the speed of the first 3 steps, plus the scores after"
        " each epoch; then a second stage of 5 epochs"
    )


def test_a_program_that_trains_sees_the_epochs_that_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = good("train", "--out", "command", *SMALL).output
    runs.train_run(dataclasses.replace(open_run(Path("command")).config.recipe, out="program"))
    by_command, by_program = (
        [line.rpartition("  ")[0] for line in output.splitlines() if line.startswith("epoch ")]
        for output in (command, capsys.readouterr().out)
    )
    assert len(by_command) == 2
    assert by_program == by_command


def test_the_batches_of_a_validation_count_for_no_estimate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are told as steps, at the end of an epoch."""
    data, asked = generate(0, train=6, val=2), list[int]()

    def clock() -> float:
        asked.append(solver.iteration)
        return solver.iteration / 10

    progress, pauses = Progress(verbose=False, clock=clock), list[int]()

    class Pauses(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            pauses.append(solver.iteration)

    progress.stage(completed_for(5000, data="own.h5", out="run"))
    model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 4, 4, "lstm")
    how = {"batch_size": 5, "num_epochs": 2, "verbose": False}
    solver = CaptioningSolver(model, data, **how, watchers=[progress, Pauses()])
    solver.train()
    assert pauses.count(6) > 1  # after the sixth step there is a validation
    assert asked == [1, 2, 3, 4, 5]
    assert capsys.readouterr().out.count("2 epochs of 6 steps, about ") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "5 seconds"),
        (61, "60 seconds"),
        (95, "2 minutes"),
        (5600, "93 minutes"),
        (7200, "2.0 hours"),
    ],
)
def test_times_are_told_in_round_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


SMALL_PICTURES = (
    "import commands; from xpcap.runs import train; train.generate = commands.few; from"
    " xpcap.cli import main; main()"
)


def begin(*args: object, **streams: Any) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_PICTURES, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        stderr=subprocess.PIPE,
        **streams,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
@pytest.mark.slow
def test_a_command_whose_reader_has_gone_ends_quietly_as_unix_tools_do(run: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for command in ("caption", "evaluate", "info"):
        process = begin(command, run, stdout=writer)
        assert (process.communicate()[1], process.returncode) == ("", 141)
    os.close(writer)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break otherwise there")
@pytest.mark.slow
def test_training_whose_reader_has_gone_is_saved_and_says_how_to_go_on(tmp_path: Path) -> None:
    with begin(
        "train", "--out", tmp_path / "run", *SMALL, "--epochs", 100_000, stdout=subprocess.PIPE
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
    assert f"train --out {tmp_path / 'run'} --resume" in errors
    assert open_run(tmp_path / "run").meta["epoch"] >= 1
