"""The docs keep up with the code: every command and option is described, blocks run, excerpts are
fresh, links and names exist.
"""

import ast
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
import tomllib
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
from click.testing import CliRunner
from commands import SMALL, use_few_pictures

import xpcap
from xpcap import backend
from xpcap.cli import main
from xpcap.encoders import ENCODERS, read_picture
from xpcap.exercise import table
from xpcap.layers import CELLS
from xpcap.runs import captions, doctor, train
from xpcap.shapes import generate, picture_of
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
NOTEBOOKS = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/**/*.ipynb"))]
COMMANDS = DOCS["reference/commands.md"]
FENCE = re.compile(r"^ *```(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)
FENCES = [(name, info, code) for name, text in DOCS.items() for info, code in FENCE.findall(text)]
PROGRAMS = sorted({name for name, info, _ in FENCES if info.endswith(" whole")})
BLOCKS = [
    code
    for name, info, code in (*(("README.md", *fence) for fence in FENCE.findall(README)), *FENCES)
    if info == "python" and name not in PROGRAMS
]  # to be run; ```python FILE FUNCTION is an excerpt
BLOCKS += [  # a page that quotes whole functions is one program
    "\n".join(code for page, info, code in FENCES if page == name and info.startswith("python"))
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
    monkeypatch.setattr(backend, "_active", None)
    tables: list[tuple[dict[str, Any], dict[str, Any]]]
    tables = [(table, dict(table)) for table in (CELLS, ENCODERS)]
    monkeypatch.setattr(doctor, "SYMPTOMS", [*doctor.SYMPTOMS])
    once = re.sub(r"range\((31|300)\)", "range(1)", block)  # rounds of a timing
    once = once.replace("train=500", "train=100")
    try:
        exec(compile(once, "block", "exec"), {"__name__": "__main__"})
    finally:  # a page adds a row of its own, or replaces one
        for table, rows in tables:
            table.clear()
            table.update(rows)
    assert capsys.readouterr().out


# ---- Programs that add a cell, which explain/cells.md quotes

CELL_PROGRAMS = {
    Path(info.split()[1]).stem: ROOT / info.split()[1]
    for name, info, _ in FENCES
    if name == "explain/cells.md" and info.startswith("python docs/")
}


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


@pytest.mark.usefixtures("plain_curves")
@pytest.mark.slow
def test_commands_of_a_program_with_its_cell_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few epochs; the one that resumes takes two more."""
    pytest.importorskip("onnx", reason="the export extra is not installed")
    monkeypatch.chdir(tmp_path)
    use_few_pictures(monkeypatch)
    put_files_that_the_docs_speak_of()
    for path in CELL_PROGRAMS.values():
        shutil.copy(path, tmp_path)
    commands = re.findall(r"^ {4}python (.*)$", DOCS["explain/cells.md"], re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command)
        if words[0] == "-c":
            subprocess.run([sys.executable, *words], check=True)
            continue
        if words[1] == "train":
            words += ["--epochs", "4"] if "--resume" in words else SMALL
        monkeypatch.setattr(sys, "argv", words)
        with mock.patch.dict(CELLS), pytest.raises(SystemExit) as end:
            runpy.run_path(words[0], run_name="__main__")
        assert end.value.code == 0, command
    epochs = (tmp_path / "runs/mgu/history.jsonl").read_text().splitlines()
    assert len(epochs) == 4
    assert (tmp_path / "mgu-onnx/greedy.onnx").exists()


# ---- Commands

COMMAND = re.compile(r"^(make demo|xpcap [a-z-](?:.*\\\n)*.*)$", re.MULTILINE)
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


def put_files_that_the_docs_speak_of() -> None:
    """In the working folder: captions, lists, features, pictures, and another dataset, all of them
    small.
    """
    from PIL import Image

    pytest.importorskip(
        "onnxruntime", reason="photographs are not encoded: the images extra is not installed"
    )
    names = [f"val{i:05d}.png" for i in range(12)]
    Path("photos").mkdir()
    Path("more").mkdir()
    for name in names:
        Image.fromarray(picture_of(name)).save(Path("photos") / name)
        Image.fromarray(picture_of(name)).save("photo.jpg")
    Image.fromarray(picture_of(names[0])).save("more/one.jpg")
    Image.fromarray(picture_of(names[1])).save("drawing.png")
    lines = [
        f"{name}#{k}\tA {colour} {'thing' if i % 2 else 'box'} .\n"
        for i, name in enumerate(names)
        for k, colour in enumerate(("red", "blue", "green"))
    ]
    for file, text in {
        "captions.txt": "".join(lines),
        "Flickr8k.token.txt": "".join(lines),
        "train.txt": "\n".join(names[:8]),
        "val.txt": "\n".join(names[8:]),
        "Flickr_8k.trainImages.txt": "\n".join(names[:8]),
        "Flickr_8k.devImages.txt": "\n".join(names[8:]),
        "captions.json": json.dumps(dict.fromkeys(names[8:], "a thing")),
    }.items():
        Path(file).write_text(text)
    Path("captions.csv").write_bytes(
        caption_formats.table({name: ["a red thing", "a thing"] for name in names} | MISTAKEN)
    )
    for name in ("garden-031.jpg", "beach-047.jpg", "beach-120.jpg", "harbour-002.jpg"):
        shutil.copy("photo.jpg", Path("photos") / name)
    for split, part in (("train", names[:8]), ("val", names[8:])):
        Path(f"captions_{split}2017.json").write_bytes(
            caption_formats.coco({name: ["a thing"] for name in part})
        )
    for file in ("features.npz", "features_efficientnet_lite2.npz"):
        np.savez(
            file,
            names=names,
            features=np.random.default_rng(0).standard_normal((12, 6)).astype("f4"),
        )
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


@pytest.mark.usefixtures("verify_once", "plain_curves")
@pytest.mark.parametrize("name", [name for name, commands in SCRIPTS.items() if commands])
@pytest.mark.slow
def test_commands_in_the_docs_run_in_their_order(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small data, and small models where they are trained; those for a GPU or PyTorch only where
    there is one.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        train, "generate", lambda seed, **how: generate(seed, train=40, val=12, **how)
    )
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.setattr(
        captions, "read_url", lambda url: read_picture(url.rpartition("/")[2])
    )  # the file of that name
    put_files_that_the_docs_speak_of()
    runtime = Path(os.environ.get("XPCAP_RUNTIME", ROOT / RUNTIME))
    if runtime.is_file():
        shutil.copy(runtime, RUNTIME)
    for command in SCRIPTS[name]:
        if "cupy" in command and not backend.backend_status()["cupy"].usable:
            continue
        if "torch" in command and importlib.util.find_spec("torch") is None:
            continue
        if "xpcap export" in command and importlib.util.find_spec("onnx") is None:
            continue
        if "--web" in command and not Path(RUNTIME).exists():
            continue
        words = (
            ["train"] if command == "make demo" else shlex.split(command.replace("\\\n", " "))[1:]
        )
        words += SMALL if words[0] == "train" and "--resume" not in words else []
        if (
            "--out" in words
            and "--resume" not in words
            and Path(words[words.index("--out") + 1]).exists()
        ):
            continue  # an example given twice
        for run in missing_runs(words):
            assert CliRunner().invoke(main, ["train", "--out", run, *SMALL]).exit_code == 0
        result = CliRunner().invoke(main, words)
        if "--strict" in words:  # which names the mistakes of the table; then they are left out
            assert all(name in result.output for name in ("beach-120.jpg", "holiday-0412.jpg"))
            result = CliRunner().invoke(main, [word for word in words if word != "--strict"])
        mistakes = "--against" in words and "Error:" not in result.output  # of with_three_mistakes
        assert result.exit_code in {0, int(mistakes)}, f"{command}\n{result.output}"
        assert result.output
        for mark, quoted in outputs_of(TEXTS[name]):
            if stands_for(mark, command) and not of_the_demo(command):
                assert_printed(quoted, result.output)


# ---- What commands print, as pages quote it

BLOCK = re.compile(r"(?:^|\n)((?:[^ \n].*)?)\n\n((?: {4}.*\n(?:\n(?= {4}))?)+)")
COMMAND_LINE = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:xpcap|make|pip|python3?|py|npm|curl|unzip|conda|source|\.venv|jupyter|uvicorn"
    r"|mpiexec|pyinstaller|compute-sanitizer|nsys)\b"
)
FILE_LINE = re.compile(r"#!|import |location |image,caption")
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


READERS = [name for name in DOCS if not name.startswith("develop/")]


@pytest.mark.parametrize("name", READERS)
def test_a_quoted_output_names_its_command_or_is_an_example(name: str) -> None:
    """`<!-- output: COMMAND -->` above a block: the tests run COMMAND, which stands on the page, and
    compare. `<!-- example -->`: of a reader's own data, or of a moment that no test waits for.
    """
    for before, block in BLOCK.findall(FENCE.sub("", DOCS[name])):
        first = block.strip().partition("\n")[0]
        if COMMAND_LINE.match(first) or FILE_LINE.match(first) or "$" in block:
            continue  # "$": mathematics in a list
        assert re.fullmatch(r"<!-- (?:output: .+|example) -->", before), (
            f"docs/{name} quotes an output without <!-- output: COMMAND --> or <!-- example --> and"
            f" an empty line above it: {first}"
        )
    for mark, _ in outputs_of(DOCS[name]):
        assert any(stands_for(mark, command) for command in SCRIPTS[name]), (
            f"docs/{name} quotes the output of {mark!r}, which is not a command on the page"
        )


def test_the_demo_captions_drawings_and_never_photos() -> None:
    """It names shapes: of photos it says nothing that a page could quote."""
    examples = "".join(command.epilog or "" for command in main.commands.values())
    pages = "\n".join(command for commands in SCRIPTS.values() for command in commands)
    found = re.findall(
        r"caption runs/pictures-lstm .*\bphotos?(?:\s|\.jpg)", f"{examples}\n{pages}"
    )
    assert found == []


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


EXTRAS = {  # a command of a page: what it needs
    r"prepare (?!.*--encoder (?:histogram|timm)).*--pictures": "images",
    r"^xpcap export": "export",
    r"--describe": "describe",
    r"timm:": "timm",
    r"--backend cupy": "cuda12",
}


@pytest.mark.parametrize(
    "name", [name for name in SCRIPTS if name.startswith(("README", "howto/", "tutorials/"))]
)
def test_a_page_names_the_extras_that_its_commands_need(name: str) -> None:
    commands = [command.replace("\\\n", " ") for command in SCRIPTS[name]]
    for needs, extra in EXTRAS.items():
        if any(re.search(needs, command) for command in commands):
            assert re.search(rf"\[[\w,]*\b{extra}\b", TEXTS[name]), f"{name}: .[{extra}]"


def test_no_other_command_stands_in_the_docs_unproven() -> None:
    """Besides those there are set-up and make targets, which the suite cannot run inside itself,
    and the course's archive. test_course_data.py runs those of xpcap.course.
    """
    others = re.findall(
        r"^(?: {4})?((?:make|pip|source|git|conda|curl) \S.*)$",
        "\n".join([*DOCS.values(), README, CONTRIBUTING]),
        re.MULTILINE,
    )
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    archive = (  # its unpacking is in test_cs231n.py
        "curl -C - -O https://cs231n.stanford.edu/coco_captioning.zip"
    )
    known = (
        "pip install '.[",
        "pip install .",  # of the wheel that it builds, in test_wheel.py
        "pip install ~/xpcap",
        "source .venv/bin/activate",
        archive,
        *(f"make {target}" for target in targets),
    )
    assert len(others) >= 4
    for other in others:
        assert other.startswith(known), other


def test_fences_are_blocks_excerpts_or_mathematics() -> None:
    """A misspelt fence would be neither run nor filled in. Programs marked `py` want files of an
    export beside them: test_onnx.py runs them, and test_hosts.py the document marked `html`.
    test_package.py reads the list of packages in the one marked `dockerfile`.
    """
    kinds = {"python", "math", "py", "html", "dockerfile"}
    assert {info.split(" ")[0] for _, info, _ in FENCES} == kinds
    assert [name for name, info, _ in FENCES if info == "html"] == ["howto/web-page.md"]
    assert {name for name, info, _ in FENCES if info == "py"} == {"howto/export.md"}
    assert sum(text.count("```") for text in DOCS.values()) == 2 * len(FENCES)


@pytest.mark.parametrize("name", DOCS)
def test_what_a_page_quotes_is_what_the_code_says(name: str) -> None:
    assert excerpts.filled(DOCS[name]) == DOCS[name], (
        f"docs/{name} is out of date: run make excerpts"
    )


def test_every_table_of_the_code_stands_on_a_page() -> None:
    tables = {name for page in DOCS.values() for name, _ in excerpts.TABLE.findall(page)}
    assert tables == set(excerpts.TABLES)


def test_tables_name_functions_and_variables_of_the_file_that_heads_their_column() -> None:
    tables = re.findall(
        r"^\|.*\| \[`(xpcap/\S+)`\]\(\S+\) \|\n((?:\|.*\n)+)",
        "".join(DOCS.values()),
        re.MULTILINE,
    )
    assert tables
    for file, rows in tables:
        text = (ROOT / file).read_text(encoding="utf-8")
        for function, rest in re.findall(r"\| `(\w+)`([^|]*) \|$", rows, re.MULTILINE):
            inside = {
                name
                for node in ast.walk(excerpts.function_named(text, function))
                for name in (getattr(node, "id", ""), getattr(node, "arg", ""))
            }
            assert set(re.findall(r"`(\w+)`", rest)) <= inside, f"{file}, {function}: {rest}"


def test_tests_that_the_docs_name_exist() -> None:
    tests = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    for name in re.findall(r"`(test_\w+)`", "".join(DOCS.values())):
        assert f"def {name}(" in tests, name


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings: lower case, hyphens for spaces, other punctuation dropped."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    }


def test_reference_lists_every_public_name() -> None:
    reference = DOCS["reference/python.md"].split("\n## Reference\n")[1].split("\n## ")[0]
    assert set(xpcap.__all__) <= set(re.findall(r"`(\w+)", reference))


@pytest.mark.parametrize("page", ["explain/how-it-works.md", "develop/adding.md"])
def test_functions_that_a_page_of_internals_names_are_in_the_files_it_links(page: str) -> None:
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./\.\./(\S+\.py)\)", DOCS[page])
    assert links
    for name, file in links:
        source, last = (ROOT / file).read_text(encoding="utf-8"), name.rpartition(".")[2]
        assert re.search(rf"^ *(?:def|class) {last}\b|^{last}\b.* = ", source, re.MULTILINE), (
            f"{file}: {name}"
        )


def test_layout_lists_every_part_of_the_package_on_its_layer() -> None:
    listed = {
        part: int(layer)
        for layer, parts in re.findall(r"^\| (\d+) \| (.*?) \|", CONTRIBUTING, re.MULTILINE)
        for part in re.findall(r"`(\w+)(?:/|\.py)`", parts)
    }
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [one["layers"] for one in contracts["contracts"] if one["type"] == "layers"]
    numbered = enumerate(reversed(layers), start=1)
    assert listed == {part: layer for layer, parts in numbered for part in parts.split(" | ")}


def prose(path: Path) -> str:
    """The text of a page, or of a notebook's cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("name", [*PAGES, *NOTEBOOKS])
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", prose(ROOT / name)))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(prose(target)), link


def test_pages_that_code_and_messages_name_exist() -> None:
    files = [path for part in ("xpcap", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    named = {
        page
        for path in files
        for page in re.findall(r"docs/[\w/.-]+\.\w+", path.read_text("utf-8"))
    }
    assert len(named) > 5
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_top_level_cli_is_the_command_line() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    for name in main.commands:
        assert f"\n  {name} " in result.stdout


def test_gpu_page_answers_for_every_difference_between_cupy_and_numpy() -> None:
    """With a test, which another one here finds, or a reason."""
    page = DOCS["develop/testing-without-a-gpu.md"]
    rows = re.findall(r"^\| (\d+) \| .+ \| (`test_emulated_\w+`|not emulated: .+) \|$", page, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 27))


# ---- Names, calls and options that the docs state

CALL = re.compile(r"`((?:\w+\.)*\w+)\(([^`]*)\)`")
OBJECTS = {  # what the docs call an object of a class
    "captioner": "runs.PictureCaptioner",
    "data": "CaptionData",
    "model": "CaptioningRNN",
    "solver": "CaptioningSolver",
}


def resolve(name: str) -> Any:
    """The object of xpcap that a dotted name of the docs stands for, or None."""
    first, dot, rest = name.removeprefix("xpcap.").partition(".")
    return pydoc.locate(f"xpcap.{OBJECTS.get(first, first) if dot else first}{dot}{rest}")


def parameters_of(function: Any) -> list[inspect.Parameter]:
    return [
        parameter.replace(annotation=parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]


def test_reference_lists_functions_with_their_parameters_in_order() -> None:
    """Optional ones may be left out, those by position at the end."""
    cells = re.findall(r"^\| (`.+?) \|", FENCE.sub("", DOCS["reference/python.md"]), re.MULTILINE)
    rows = [row for cell in cells for row in CALL.findall(cell)]
    assert rows
    for name, arguments in rows:
        written = parameters_of(eval(f"lambda {arguments}: None"))
        parameters = parameters_of(resolve(name))
        positional = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]
        keywords = [each for each in parameters if each not in positional and each in written]
        count = len([each for each in written if each.kind is not each.KEYWORD_ONLY])
        assert written == positional[:count] + keywords, name
        assert all(each.default is not each.empty for each in positional[count:]), name


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
        inspect.Signature(parameters_of(function)).bind_partial(*call.args, **keywords)


def test_names_in_the_table_of_modules_can_be_imported() -> None:
    table = re.split(r"\n##+ ", DOCS["reference/python.md"].split("\n### Modules\n")[1])[0]
    rows = re.findall(r"^\| (`xpcap\..+?) \|(.*)\|$", table, re.MULTILINE)
    assert rows
    for cell, purpose in rows:
        modules = re.findall(r"`(xpcap\.\w+)`", cell)
        assert all(map(pydoc.locate, modules)), cell
        for name in re.findall(r"`([\w.]+)[^`]*`", purpose):
            assert any(pydoc.locate(f"{module}.{name}") for module in modules), name


@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_the_docs_have_the_options_that_they_are_given(name: str) -> None:
    line = r"(?:\\\n|[^`\n])*"
    for command, arguments in re.findall(rf"\bxpcap ([a-z]+) ({line}--{line})", TEXTS[name]):
        options = {spelling for p in main.commands[command].params for spelling in p.opts}
        options |= {
            spelling for p in main.commands[command].params for spelling in p.secondary_opts
        }
        assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", arguments)) <= options | {"--help"}, command


@pytest.mark.parametrize("name", PAGES)
def test_columns_have_a_heading_and_pictures_a_description(name: str) -> None:
    """For screen readers."""
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for heading in re.findall(r"^\|(.*)\|\n\|[ :|-]+\|$", text, re.MULTILINE):
        assert all(cell.strip() for cell in heading.split("|")), heading
    assert re.findall(r"!\[\s*\]\([^)]*\)", text) == []
