"""The docs keep up with the code: blocks and commands run, what pages quote is as it is now, options
and public names exist.
"""

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import json
import os
import pydoc
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import caption_formats
import click
import excerpts
import numpy as np
import pytest
import students
from click.testing import CliRunner, Result
from commands import SMALL
from PIL import Image
from runs import Runs

import xpcap
from xpcap import errors
from xpcap.backend import switch
from xpcap.captioning import captions, doctor
from xpcap.captioning.model_card import FILES
from xpcap.cli import main
from xpcap.cli.caption import ALL_OUTPUTS
from xpcap.cs231n import table
from xpcap.data import few
from xpcap.drawings import picture_of
from xpcap.encoders import ENCODERS, read_picture
from xpcap.layers import CELLS
from xpcap.metrics import METRICS
from xpcap.models import Policy
from xpcap.optim import RULES
from xpcap.options import described
from xpcap.prepare.detect import FORMATS
from xpcap.testing import check_cell

ROOT = Path(__file__).parents[2]
README, CONTRIBUTING = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")
)
DOCS = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
TEXTS = {"README.md": README, **DOCS}
PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("[A-Z]*.md", "benchmarks/*.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
COMMANDS = DOCS["reference/commands.md"]
FENCE = re.compile(r"^ *```(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)
FENCES = [(name, info, code) for name, text in DOCS.items() for info, code in FENCE.findall(text)]
PROGRAMS = sorted({name for name, info, _ in FENCES if info.endswith(" whole")})
BLOCKS = [
    code
    for name, info, code in (*(("README.md", *fence) for fence in FENCE.findall(README)), *FENCES)
    if info == "python"
]  # to be run; ```python FILE FUNCTION is an excerpt
BLOCKS += [  # blocks of a page that are marked `whole` are one program
    "\n".join(code for page, info, code in FENCES if page == name and info.endswith(" whole"))
    for name in PROGRAMS
]


def section(name: str) -> str:
    return COMMANDS.split(f"\n## {name}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", list(main.commands))
def test_every_command_has_a_section_with_its_options(name: str) -> None:
    assert f"\n<!-- options of {name} -->\n" in section(name), "make excerpts fills it in"
    assert f"xpcap {name}" in section(name)
    assert "Examples:" in (main.commands[name].epilog or "")
    assert all(p.help for p in main.commands[name].params if isinstance(p, click.Option))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.slow
def test_code_blocks_run(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as a program of its own, in a folder with nothing but the reports of a class."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/class.csv").write_text("student,function,points\nada,total,76\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(switch, "_active", None)
    monkeypatch.setattr(doctor, "SYMPTOMS", [*doctor.SYMPTOMS])
    once = re.sub(r"range\((31|300)\)", "range(1)", block)  # rounds of a timing
    once = re.sub(r"train=\d+", "train=40", once)
    small = " epochs=4, score_epochs=0, neighbours=False)"  # of a recipe
    once = re.sub(r" epochs=\d+(, score_epochs=0)?\)", small, once)
    with mock.patch.dict(CELLS), mock.patch.dict(ENCODERS):  # a page adds or replaces rows
        exec(compile(once, "block", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.slow
def test_programs_of_the_docs_pass_mypy(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    from mypy import api

    for k, block in enumerate(BLOCKS):
        (tmp_path / f"block{k}.py").write_text(block)
    programs = [*tmp_path.glob("*.py"), *ROOT.glob("docs/*/*.py")]
    options = "--config-file= --check-untyped-defs --ignore-missing-imports --pretty".split()
    cache = getattr(pytestconfig, "cache", None)  # the libraries' types, of an earlier call
    cache_dir = cache.mkdir("mypy") if cache else tmp_path
    output, _, status = api.run([*options, f"--cache-dir={cache_dir}", *map(str, programs)])
    assert status == 0, output


# ---- Programs that add a cell, to which explain/cells.md links

CELL_PROGRAMS = {path.stem: path for path in (ROOT / "docs" / "explain").glob("*.py")}


def paper_mgu(a: Any, h: Any, p: Any) -> Any:
    """Zhou et al. 2016; a is what x and the biases add."""
    a_f, a_n = a
    f = 1 / (1 + np.exp(-(a_f + h @ p["Wf"])))
    return (1 - f) * h + f * np.tanh(a_n + (f * h) @ p["Wn"])


def paper_gru(a: Any, h: Any, p: Any) -> Any:
    """Cho et al. 2014, equations 5 to 8: z keeps the state."""
    a_r, a_z, a_n = a
    r, z = (1 / (1 + np.exp(-(x + h @ p[name]))) for x, name in ((a_r, "Wr"), (a_z, "Wz")))
    return z * h + (1 - z) * np.tanh(a_n + (r * h) @ p["Wn"])


@pytest.mark.parametrize(
    ("program", "paper"),
    [("minimal_gated_unit", paper_mgu), ("gru_2014", paper_gru)],
)
def test_cell_of_a_program_is_that_of_its_paper_and_keeps_the_contract(
    program: str, paper: Any
) -> None:
    rng, (N, H) = np.random.default_rng(0), (3, 4)
    with mock.patch.dict(CELLS):
        listed = set(CELLS)
        runpy.run_path(str(CELL_PROGRAMS[program]))
        (name,) = set(CELLS) - listed
        cell = CELLS[name]
        shapes = {"a": (N, H * len(cell.blocks)), "h": (N, H), **cell.shapes(5, H)}
        arrays = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
        (h,), _ = cell.step_forward(arrays["a"], (arrays["h"],), arrays)
        blocks = np.split(arrays["a"], len(cell.blocks), axis=1)
        np.testing.assert_allclose(h, paper(blocks, arrays["h"], arrays), rtol=1e-12)
        check_cell(name)


# ---- Commands

COMMAND = re.compile(
    r"^(make demo|python (?:\w+\.py |-c .*xpcap\.testing).*|xpcap [a-z-](?:.*\\\n)*.*)$", re.M
)
RUNTIME = "onnxruntime-web-1.30.0.tgz"  # npm pack fetches it; a page of `export` needs it


def commands_of(page: str) -> list[str]:
    """Commands of a page's code: of its fences, and of its indented lines."""
    fences = "".join(code for info, code in FENCE.findall(page) if not info)
    indented = re.findall(r"^ {4}(.*)$", FENCE.sub("", page), re.MULTILINE)
    return COMMAND.findall(fences) + COMMAND.findall("\n".join(indented))


SCRIPTS = {name: commands_of(text) for name, text in TEXTS.items()}


MISTAKEN = {  # of which tutorials/your-photos.md has the notes
    "harbour-002.JPG": ["a thing"],
    "garden-031.jpg": ["a red thing", "a red thing"],
    "beach-120.jpg": [""],
    "beach_047.jpg": ["a thing"],
    "holiday-0412.jpg": ["a thing"],
}


def with_three_mistakes(layers: str) -> str:
    """A student's layers, of which tutorials/check-your-lstm.md quotes the report."""
    before, heading, body = layers.partition("def lstm_backward(dh, cache):\n")
    for right, wrong in (
        ("np.add.at(dW, x, dout)", "dW[x] += dout"),
        ("dgate_f * f * (1 - f)", "dgate_f"),
    ):
        assert right in before
        before = before.replace(right, wrong)
    return f"{before}{heading}    pass\n\n\n" + body[body.index("def ") :]


@pytest.fixture(scope="module")
def files_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the docs speak of, all of them small."""
    pytest.importorskip(
        "onnxruntime", reason="photographs are not encoded: the images extra is not installed"
    )
    folder = tmp_path_factory.mktemp("files")
    with contextlib.chdir(folder):
        put_files()
    return folder


@pytest.fixture
def files(files_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of them in the working folder."""
    shutil.copytree(files_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def put_files() -> None:
    """Captions, lists, features, pictures, another dataset, and the course's files."""
    from PIL import Image

    names = [f"val{i:05d}.png" for i in range(12)]
    places = {f"photos/{name}": name for name in names}
    for name in ("garden-031.jpg", "beach-047.jpg", "beach-120.jpg", "harbour-002.jpg"):
        places[f"photos/{name}"] = names[-1]
    places |= {"photo.jpg": names[-1], "more/one.jpg": names[0], "drawing.png": names[1]}
    for file, name in places.items():
        Path(file).parent.mkdir(exist_ok=True)
        Image.fromarray(picture_of(name)).save(file)
    lines = "".join(
        f"{name}#{k}\tA {colour} {'thing' if i % 2 else 'box'} .\n"
        for i, name in enumerate(names)
        for k, colour in enumerate(("red", "blue", "green"))
    )
    train, val = "\n".join(names[:8]), "\n".join(names[8:])
    for files, text in {
        "captions.txt Flickr8k.token.txt": lines,
        "train.txt Flickr_8k.trainImages.txt": train,
        "val.txt Flickr_8k.devImages.txt": val,
        "captions.json": json.dumps(dict.fromkeys(names[8:], "a thing")),
    }.items():
        for file in files.split():
            Path(file).write_text(text)
    Path("captions.csv").write_bytes(
        caption_formats.table({name: ["a red thing", "a thing"] for name in names} | MISTAKEN)
    )
    for split, part in (("train", names[:8]), ("val", names[8:])):
        Path(f"captions_{split}2017.json").write_bytes(
            caption_formats.coco({name: ["a thing"] for name in part})
        )
    for file in ("features.npz", "features_efficientnet_lite2.npz"):
        features = np.random.default_rng(0).standard_normal((12, 6)).astype("f4")
        np.savez(file, names=names, features=features)
    for module, name in table.FILES.items():
        places = [Path("cs231n", name), *[Path(name)] * (module == "rnn_layers")]
        if module in table.HANDED_IN:
            places += [Path("submissions", student, name) for student in ("ada", "ben")]
        for file in places:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(table.source(module, table.PACKAGE))
    Path("cs231n/rnn_layers.py").write_text(with_three_mistakes(students.LAYERS))
    arguments = (
        "prepare captions.txt --split train=train.txt --split test=val.txt --features features.npz"
        " --out other.h5"
    )
    assert CliRunner().invoke(main, arguments.split()).exit_code == 0


def contents(place: Path) -> dict[Path, bytes]:
    """Files of a folder, or a file alone, with their bytes."""
    paths = place.rglob("*") if place.is_dir() else [place]
    return {path: path.read_bytes() for path in paths if path.is_file()}


MADE: dict[str, tuple[Result, dict[Path, bytes]]] = {}


def outcome(words: list[str]) -> Result:
    """What a command ends with. What `prepare`, `train` and `export` of xpcap made of the same files
    for an earlier page is copied, and not made again.
    """
    program, *rest = words
    if program == "python":
        run = run_code if rest[0] == "-c" else run_file
        with mock.patch.dict(CELLS), mock.patch.object(sys, "argv", rest):
            return CliRunner().invoke(click.Command(rest[0], callback=lambda: run(*rest[:2])), [])
    if rest[0] not in ("prepare", "train", "export") or "--resume" in rest:
        return CliRunner().invoke(main, rest)
    before = contents(Path())
    digest = hashlib.sha256(repr(rest).encode())
    for path, content in sorted(pair for word in rest for pair in contents(Path(word)).items()):
        digest.update(repr((path, len(content))).encode() + content)
    key = digest.hexdigest()
    if key not in MADE:
        result = CliRunner().invoke(main, rest)
        MADE[key] = result, {k: x for k, x in contents(Path()).items() if before.get(k) != x}
    result, new = MADE[key]
    for path, content in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return result


def run_file(file: str, *arguments: str) -> None:
    runpy.run_path(file, run_name="__main__")


def run_code(option: str, code: str) -> None:
    subprocess.run([sys.executable, option, code], check=True)


def can_run(command: str) -> bool:
    """Those for a GPU, PyTorch, ONNX or a browser's runtime only where there is one."""
    wants = {"cupy": switch.backend_status()["cupy"].usable, "--web": Path(RUNTIME).exists()}
    for word, module in (("torch", "torch"), (" export ", "onnx")):
        wants[word] = importlib.util.find_spec(module) is not None
    return all(usable for word, usable in wants.items() if word in command)


@pytest.mark.usefixtures("few_pictures", "files", "verify_once")
@pytest.mark.parametrize("name", [name for name, commands in SCRIPTS.items() if commands])
@pytest.mark.slow
def test_commands_in_the_docs_run_in_their_order(
    name: str, train_once: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small data, and small models where they are trained, which go on for two epochs."""
    monkeypatch.setattr(
        captions, "read_url", lambda url: read_picture(url.rpartition("/")[2])
    )  # the file of that name
    runtime = Path(os.environ.get("XPCAP_RUNTIME", ROOT / RUNTIME))
    for path in (*CELL_PROGRAMS.values(), *[runtime] * runtime.is_file()):
        shutil.copy(path, RUNTIME if path == runtime else path.name)
    for command in filter(can_run, SCRIPTS[name]):
        words = shlex.split(command.replace("\\\n", " ").replace("make demo", "xpcap train"))
        out = Path(words[words.index("--out") + 1]) if "--out" in words else Path("runs/new")
        if (goes_on := out.exists()) and "--resume" not in words:
            continue  # an example given twice
        if "train" in words:
            words += ["--epochs", "4"] if goes_on else SMALL
        for missing in missing_runs(words):
            shutil.copytree(train_once(*SMALL), missing)
        result = outcome(words)
        if "--strict" in words:  # which names the mistakes of the table; then they are left out
            assert all(name in result.output for name in ("beach-120.jpg", "holiday-0412.jpg"))
            result = outcome([word for word in words if word != "--strict"])
        mistakes = "--against" in words and "Error:" not in result.output  # of with_three_mistakes
        assert result.exit_code in {0, int(mistakes)}, f"{command}\n{result.output}"
        assert result.output or "-c" in words
        assert not goes_on or len((out / "history.jsonl").read_text().splitlines()) == 4
        for mark, quoted in outputs_of(TEXTS[name]):
            if stands_for(mark, command) and not of_the_demo(command):
                assert_printed(quoted, result.output)


# ---- What commands print, as pages quote it

OUTPUT = re.compile(
    r"^<!-- output: (.+?) -->\n+((?: {4}.*\n|\n(?= {4}))+|```\n(?:.*\n)+?```$)", re.M
)


def outputs_of(page: str) -> list[tuple[str, str]]:
    """(COMMAND, block) of the blocks of a page below <!-- output: COMMAND -->."""
    return [(mark, block.replace("```", "")) for mark, block in OUTPUT.findall(page)]


def stands_for(mark: str, command: str) -> bool:
    """`...` in a mark stands for the rest of a long command."""
    return bool(re.fullmatch(".*".join(map(re.escape, mark.split("..."))), command, re.DOTALL))


def assert_printed(quoted: str, output: str) -> None:
    """Numbers may differ, `...` stands for any text, and long lines may be broken."""
    mask = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
    pieces = [mask.sub("0", piece).split() for piece in quoted.split("...")]
    pattern = r"[\s\S]*?".join(r"\s+".join(map(re.escape, words)) for words in pieces)
    assert re.search(pattern, mask.sub("0", output)), f"quoted:\n{quoted}\nprinted:\n{output}"


def of_the_demo(command: str) -> bool:
    """It trains the demo or captions by it: it prints what pages quote after whole training."""
    return command in {"make demo", "xpcap train"} or "runs/pictures-lstm" in command


def missing_runs(words: list[str]) -> list[str]:
    """Runs that a page uses and does not train: a reader's."""
    used = [
        word
        for before, word in pairwise(words)
        if re.fullmatch(r"runs/[\w-]+", word) and before != "--out"
    ]
    return [run for run in used if not Path(run).exists()]


@pytest.mark.nightly
def test_outputs_of_the_demo_are_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo as a reader trains it."""
    monkeypatch.chdir(tmp_path)
    printed = {"make demo": CliRunner().invoke(main, ["train"]).output}
    printed["xpcap train"] = printed["make demo"]
    for name, text in TEXTS.items():
        for mark, quoted in outputs_of(text):
            for command in SCRIPTS[name]:
                if stands_for(mark, command) and of_the_demo(command):
                    if command not in printed:
                        printed[command] = CliRunner().invoke(main, shlex.split(command)[1:]).output
                    assert_printed(quoted, printed[command])


# ---- What pages take from the code and from results


@pytest.mark.parametrize("name", TEXTS)
def test_options_and_measured_figures_on_a_page_are_up_to_date(name: str) -> None:
    assert excerpts.filled(TEXTS[name]) == TEXTS[name], f"{name} is out of date: run make excerpts"


def test_committed_figures_are_of_the_committed_sources() -> None:
    """`make docs` draws them again."""
    figures = runpy.run_path(str(ROOT / "docs" / "figures.py"))
    for name in figures["FIGURES"]:
        with Image.open(figures["IMAGES"] / f"{name}.png") as picture:
            assert picture.text["sources"] == figures["digest"](name), name


QUOTED = [
    (name, info.split()[1:], code)
    for name, info, code in FENCES
    if info.startswith("python ") and info != "python whole"
]


@pytest.mark.parametrize(("name", "place", "code"), QUOTED)
def test_quoted_code_stands_in_its_file(name: str, place: list[str], code: str) -> None:
    """All of a file or, marked `whole`, of a function; else a function without what its mathematics
    does not need.
    """
    file, *function = place
    text = (ROOT / file).read_text(encoding="utf-8")
    if len(function) != 1:
        assert code in text, f"docs/{name} quotes {file} as it was"
        return
    _, begin, rest = text.partition(f"def {function[0].rpartition('.')[2]}(")
    assert begin, f"docs/{name} quotes {function[0]}, which is not in {file}"
    lines = iter([line.strip() for line in rest.splitlines()])
    for line in code.splitlines():
        assert line.strip() in lines, f"docs/{name} quotes {function[0]} as it was: {line}"


def symptom_row(row: doctor.Symptom) -> str:
    """What a symptom measures, and from where it is worth a check, or bad."""
    side = "above" if row.limits[1] > row.limits[0] else "below"
    ends = [
        f"{side} {limit * 100:g} %" if row.share else f"{side} {limit:g}" for limit in row.limits
    ]
    if row.above_people:
        ends = [f"{limit * 100:g} points above people's" for limit in row.limits]
    return f"| `{row.name}` | {excerpts.quoted(row.title)} | {' | '.join(ends)} |"


STATED = {  # what the tables of a page say
    "explain/cells.md": [
        f"| `{name}` | "
        + " | ".join(", ".join(x) or "none" for x in (cell.blocks, cell.gates, cell.states))
        for name, cell in CELLS.items()
    ],
    "howto/troubleshooting.md": list(map(symptom_row, doctor.SYMPTOMS)),
    "howto/caption-formats.md": [
        text for form in FORMATS for text in (f"| {form.name} |", f"| {form.splits} |")
    ],
    "howto/captions-to-files.md": [
        f"| `{output.flag}{output.suffix and f' FILE{output.suffix}'}` | {excerpts.quoted(output.help)} |"
        for output in ALL_OUTPUTS
    ],
    "howto/encoders.md": [f"| `{row.name}` | {row.help} |" for row in ENCODERS.values()],
    "howto/own-models.md": [
        f"| `{rule.name}` | " + ", ".join(f"`{k}` {x:g}" for k, (x, _) in rule.numbers.items())
        for rule in RULES.values()
    ],
    "reference/commands.md": [f"| {row} | {row.change} | {row.reason} |" for row in few.TABLE],
    "reference/decoding.md": [f"| {limit.help} |" for limit in described(Policy).values()],
    "reference/files.md": [f"| `{name}` | {content} |" for name, content in FILES.items()],
    "reference/scores.md": [f"| {metric.meaning} | {metric.protocol} |" for metric in METRICS],
}


@pytest.mark.parametrize("page", STATED)
def test_tables_of_a_page_state_what_the_code_has(page: str) -> None:
    for text in STATED[page]:
        assert text in DOCS[page], f"docs/{page} lacks: {text}"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    text = FENCE.sub("", (ROOT / name).read_text("utf-8"))
    for link, _, anchor in re.findall(r"\]\(([^)\s:#]*)(#([^)\s]*))?\)", text):
        target = (ROOT / name).parent / link if link else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8").lower(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{link}#{anchor}"


def test_contributing_lists_what_the_package_folder_has() -> None:
    layout = CONTRIBUTING.split("## Layout")[1].split("```")[1]
    package = ROOT / "xpcap"
    folders = [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    files = [path.name for path in package.glob("[a-z]*.py")]
    assert sorted(line.split()[0] for line in layout.strip().splitlines()) == sorted(
        folders + files
    )


def test_a_test_file_lies_under_the_name_of_what_it_tests() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    subpackages = {path.parent.name for path in (ROOT / "xpcap").glob("*/__init__.py")}
    assert folders - subpackages == {"benchmarks", "emulated", "package"}


def test_pages_that_messages_name_and_targets_that_pages_name_exist() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "xpcap").rglob("*.py"))
    for page in re.findall(r"docs/[\w/.-]+\.\w+", code):
        assert (ROOT / page).exists(), page
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    pages = "\n".join((*TEXTS.values(), CONTRIBUTING))
    assert set(re.findall(r"^(?: {4})?make (\w\S*)", pages, re.MULTILINE)) <= set(targets)


def test_reference_lists_every_public_name() -> None:
    reference = DOCS["reference/python.md"].split("\n## Reference\n")[1].split("\n## ")[0]
    assert set(xpcap.__all__) <= set(re.findall(r"`(\w+)", reference))


def test_reference_lists_every_error_with_its_base_where_it_can_be_imported() -> None:
    table = DOCS["reference/python.md"].split("\n### Errors\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (\w+) \|", table, re.MULTILINE)
    classes = [error for error in vars(errors).values() if isinstance(error, type)]
    assert {resolve(name): base for name, base in rows} == {
        error: error.__bases__[-1].__name__
        for error in classes
        if issubclass(error, errors.XpcapError) and error is not errors.XpcapError
    }


def test_top_level_cli_is_the_command_line() -> None:
    with mock.patch.object(sys, "argv", ["cli.py", "--help"]):
        top = click.Command("cli", callback=lambda: run_file(str(ROOT / "cli.py")))
        result = CliRunner().invoke(top, [])
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.output for name in main.commands)


# ---- Names, calls and options that the docs state

CALL = re.compile(r"`((?:\w+\.)*\w+)\(([^`]*)\)`")
OBJECTS = {  # what the docs call an object of a class
    "captioner": "captioning.PictureCaptioner",
    "data": "CaptionData",
    "model": "CaptioningRNN",
    "solver": "CaptioningSolver",
}


def resolve(name: str) -> Any:
    """The object of xpcap that a dotted name of the docs stands for, or None."""
    first, dot, rest = name.removeprefix("xpcap.").partition(".")
    return pydoc.locate(f"xpcap.{OBJECTS.get(first, first) if dot else first}{dot}{rest}")


@pytest.mark.parametrize("name", TEXTS)
def test_calls_in_the_docs_fit_what_they_call(name: str) -> None:
    for function_name, arguments in CALL.findall(FENCE.sub("", TEXTS[name])):
        function = resolve(function_name)
        if not getattr(function, "__module__", "").startswith("xpcap"):
            continue
        try:
            call = ast.parse(f"f({arguments})", mode="eval").body
        except SyntaxError:  # parameters, or shapes
            continue
        assert isinstance(call, ast.Call)
        keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        parameters = inspect.signature(function).parameters.values()
        named = [p for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        inspect.Signature(named).bind_partial(*call.args, **keywords)


def test_names_in_the_table_of_modules_can_be_imported() -> None:
    table = re.split(r"\n##+ ", DOCS["reference/python.md"].split("\n### Modules\n")[1])[0]
    rows = re.findall(r"^\| (`xpcap\..+?) \|(.*)\|$", table, re.MULTILINE)
    assert rows
    for cell, purpose in rows:
        modules = re.findall(r"`(xpcap[.\w]+)`", cell)
        assert all(map(pydoc.locate, modules)), cell
        for name in re.findall(r"`([\w.]+)[^`]*`", purpose):
            assert any(pydoc.locate(f"{module}.{name}") for module in modules), name


@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_the_docs_have_the_options_that_they_are_given(name: str) -> None:
    line = r"(?:\\\n|[^`\n])*"
    for command, arguments in re.findall(rf"\bxpcap ([a-z]+) ({line}--{line})", TEXTS[name]):
        params = main.commands[command].params
        options = {word for p in params for word in (*p.opts, *p.secondary_opts, "--help")}
        assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", arguments)) <= options, command
