"""Handouts hold no solution, fail at the first function that is not written, and work once it is."""

import ast
import importlib
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from xpcap.cs231n import table
from xpcap.cs231n.grading.run import PACKAGES
from xpcap.cs231n.handout import TO_WRITE, functions, handout
from xpcap.cs231n.verify import verify
from xpcap.errors import DataError, OptionError

DOCS = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = [DOCS / f"{cell}_captioning.ipynb" for cell in ("rnn", "lstm")]
SOURCES = {f"{module}.py": table.source(module, "") for module in table.HANDED_OUT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    handout(tmp_path, NOTEBOOKS)
    return tmp_path


def lines_of(node: ast.FunctionDef, source: str) -> set[str]:
    """Lines of a function's body, without its docstring."""
    start = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
    return {line.strip() for line in source.splitlines()[start : node.end_lineno]} - {""}


def test_no_solved_line_is_in_a_handout(folder: Path) -> None:
    """Statements of the functions to write, unless a given function has the same one."""
    solved, given = set(), set()
    for source in SOURCES.values():
        for name, node in functions(source):
            (solved if name in TO_WRITE else given).update(lines_of(node, source))
    given |= {  # as in the course
        "captions_in = captions[:, :-1]",
        "captions_out = captions[:, 1:]",
        "mask = captions_out != self._null",
        "captions = np.full((N, max_length), self._null)",
    }
    solved = {line for line in solved - given if "=" in line or "np." in line}
    assert {"da = dnext_h * (1 - next_h**2)", "np.add.at(dW, x, dout)"} <= solved
    assert len(solved) > 70
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        found = [line for line in solved if re.search(rf"^\s*{re.escape(line)}$", text, re.M)]
        assert found == [], path.name


def test_functions_to_write_keep_their_signature_and_the_rest_stays(folder: Path) -> None:
    seen = []
    for file, before in SOURCES.items():
        after = (folder / file).read_text(encoding="utf-8")
        originals = dict(functions(before))
        assert [name for name, _ in functions(after)] == list(originals)
        for name, node in functions(after):
            original = originals[name]
            if name not in TO_WRITE:
                assert ast.unparse(node) == ast.unparse(original)
                continue
            seen.append(name)
            assert ast.unparse(node.args) == ast.unparse(original.args)
            text = ast.get_source_segment(after, node) or ""
            parts = "- START of ", f'raise NotImplementedError("{name} is not', "- END of "
            start, todo, end = map(text.index, parts)
            assert start < todo < end
            assert "#" in text[start:todo]  # what to do
            assert text.splitlines()[-1].strip() == f"return {', '.join(results_of(name))}"
        assert "xpcap" not in after
    assert sorted(seen) == sorted(TO_WRITE)
    assert len(TO_WRITE) == 12


def results_of(name: str) -> list[str]:
    row = next(one for one in table.FUNCTIONS.values() if one.method == name)
    return [*row.results, *["cache"] * name.endswith("_forward")]


def test_a_blank_has_the_shape_of_every_array_and_presets_every_result(folder: Path) -> None:
    for file in ("rnn_layers.py", "rnn.py"):
        source = (folder / file).read_text(encoding="utf-8")
        for name, node in functions(source):
            if name not in TO_WRITE:
                continue
            row = next(one for one in table.FUNCTIONS.values() if one.method == name)
            text = ast.get_docstring(node) or ""
            for arrays in (row.arguments, row.results):
                for one, entry in arrays.items():
                    shape = "" if str(entry.forms[0]) == "()" else f" {entry.forms[0]}"
                    assert re.search(rf"^- {re.escape(one + shape)}: \w+", text, re.M), one
            preset = {
                one.id
                for one in ast.walk(node)
                if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
            }
            assert set(results_of(name)) <= preset
            if name.startswith("Captioning"):
                assert {"W_proj", "b_proj", "W_embed", "Wx", "Wh", "b", "W_vocab"} <= preset


def test_students_write_in_the_order_of_the_course_the_rnn_first() -> None:
    for module in table.HANDED_IN:
        names = [name for name, _ in functions(SOURCES[f"{module}.py"]) if "__" not in name]
        assert names == list(dict.fromkeys(one.method for one in table.functions([module])))


def test_the_readme_says_what_to_write_hand_in_and_run_and_how_long_it_takes(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in (*TO_WRITE, "rnn_layers.py", "rnn.py", PACKAGES):
        assert name in text
    for title in ("Install", "Write", "Check", "Hand in", "Honour code"):
        assert f"\n## {title}\n" in text
    for path in NOTEBOOKS:
        (time,) = re.findall(rf"^- `{path.name}` takes (about .*)$", text, re.M)
        assert time in path.read_text(encoding="utf-8")
        assert time in (DOCS.parent / "howto" / "teaching.md").read_text(encoding="utf-8")
    assert not re.search(r"[{}]", text)


def test_the_readmes_check_gives_the_marks_of_both_files(tmp_path: Path) -> None:
    handout(tmp_path, NOTEBOOKS, blank=[name for name in TO_WRITE if name != "rnn_step_forward"])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    python (-m xpcap verify .*)$", text, re.M)
    command = [sys.executable, *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith(" functions pass, 6 of 100 points\n"), done.stderr


def test_notebooks_have_no_answers_outputs_or_links_that_lead_nowhere(folder: Path) -> None:
    for original in NOTEBOOKS:
        notebook = json.loads((folder / original.name).read_text(encoding="utf-8"))
        cells = notebook["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        assert not re.search("</?details|xpcap.layers", text)
        assert re.search(r"(?m)^from rnn import \*$", text)
        questions = len(re.findall(r"\*\*Question \d", text))
        assert 0 < questions == sum(cell["source"] == "*Your answer:*" for cell in cells)
        for before, cell in pairwise(cells):
            if cell["source"] == "*Your answer:*":
                assert before["source"].splitlines()[-1].endswith("?")
        assert "**Question 1.**" in text
        for symbol in (r"da\b", r"dh_\{t-1\}", r"dW_h"):  # of the derivations
            assert not re.search(rf"\$[^$\n]*{symbol}[^$\n]*=", text), symbol
        assert all(
            cell["outputs"] == [] and cell["execution_count"] is None
            for cell in cells
            if cell["cell_type"] == "code"
        )
        assert "README.md" in cells[0]["source"]
        assert "THREADS" in cells[1]["source"]
        assert len({cell["id"] for cell in cells}) == len(cells)
        assert "`rnn_layers.py` and `rnn.py`" in cells[0]["source"]
        for link in re.findall(r"\]\((\S+?)\)", text):
            assert (folder / link).exists(), link
        kept = ["".join(cell["source"]) for cell in cells]
        whole = json.loads(original.read_text(encoding="utf-8"))["cells"]
        ours = [c for c in whole if "xpcap" in c["metadata"].get("tags", ())]
        assert not set(kept) & {"".join(c["source"]) for c in ours}
        code, lost, left = (
            sum(cell["cell_type"] == "code" for cell in of) for of in (whole, ours, cells)
        )
        assert left == code - lost + 1


def test_a_teacher_chooses_what_is_blank(tmp_path: Path) -> None:
    files = handout(tmp_path, blank=iter(["rnn_step_*", "sigmoid", "adam"]))  # type: ignore[arg-type]
    written = {path.name: names for path, names in files.items()}
    assert written["rnn_layers.py"] == ["sigmoid", "rnn_step_forward", "rnn_step_backward"]
    assert written["optim.py"] == ["adam"]
    assert written["rnn.py"] == []
    assert (tmp_path / "rnn.py").read_text(encoding="utf-8") == SOURCES["rnn.py"]
    with refuses(OptionError, "no function is called 'lstm_stp'", "did you"):
        handout(tmp_path / "other", blank=["lstm_stp"])
    assert not (tmp_path / "other").exists()


def test_a_handout_overwrites_nothing_and_refuses_what_is_no_notebook(tmp_path: Path) -> None:
    mine = tmp_path / "rnn.py"
    mine.write_text("my own")
    with refuses(OptionError, "rnn.py", "exists, and is not overwritten"):
        handout(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rnn.py"]
    assert mine.read_text() == "my own"
    for text in ("my own", "[]", '{"cells": [{}]}', '{"cells": 3}'):
        mine.write_text(text)
        with refuses(DataError, "rnn.py", "is not a notebook"):
            handout(tmp_path / "other", [mine])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["rnn.py", "README.md", "mine.ipynb"])
def test_a_notebook_does_not_take_the_place_of_another_file(name: str, tmp_path: Path) -> None:
    mine = [tmp_path / "a" / name, tmp_path / "b" / name]
    for path in mine:
        path.parent.mkdir()
        path.write_text(json.dumps({"cells": [cell_of("1")]}))
    with refuses(OptionError, name, "name of another file"):
        handout(tmp_path / "out", mine)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import xpcap.layers as L\nL.lstm_forward(x)", "import xpcap.layers as L"),
        ("from xpcap import data, optim\noptim.adam(w)", "from xpcap import data, optim"),
        ("from xpcap.layers import *", "from xpcap.layers import *"),
        ("from xpcap.layers import (\n    sigmoid,\n    a,\n)", "xpcap.layers import ( sigmoid"),
        ("import xpcap\nmodel = xpcap.CaptioningRNN({})", "xpcap.CaptioningRNN"),
        ("import xpcap.layers\nh = xpcap.layers.lstm_forward(x)", "xpcap.layers.lstm_forward"),
    ],
)
def test_a_notebook_that_would_run_the_librarys_solution_is_refused(
    code: str, found: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.ipynb"
    mine.write_text(json.dumps({"cells": [cell_of(code)]}))
    with refuses(DataError, "mine.ipynb", f"has {found}, which would run"):
        handout(tmp_path / "out", [mine])
    assert not (tmp_path / "out").exists()


def cell_of(code: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "source": [code], "outputs": []}


def test_the_command_writes_a_folder_and_says_what_is_to_be_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "xpcap.cs231n.handout", out, NOTEBOOKS[0]]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    names = {*SOURCES, NOTEBOOKS[0].name, "README.md"}
    assert {path.name for path in out.iterdir()} == names
    assert "rnn.py: to write: CaptioningRNN.loss, CaptioningRNN.sample\n" in done.stdout
    again = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: ")
    assert "Traceback" not in again.stderr


def run_in(folder: Path, name: str, sizes: str) -> Any:
    """A notebook of a handout, run in smaller sizes with the files of that folder."""
    import nbformat
    from notebooks import ROOT, run

    notebook = nbformat.read(folder / name, as_version=4)
    nbformat.validate(notebook)
    (at,) = [k for k, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", ())]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(sizes))
    run(notebook, {"PYTHONPATH": f"{ROOT}:{folder}"})
    return notebook


@pytest.mark.nightly
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_of_a_handout_works_once_all_is_written(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the course's digits, and the files of the handout."""
    monkeypatch.syspath_prepend(str(DOCS.parents[1] / "tests" / "package"))
    from test_notebooks import SMALLER, check_digits, printed

    for file, source in SOURCES.items():
        (folder / file).write_text(source, encoding="utf-8")
    text = printed(run_in(folder, name, SMALLER[name.removesuffix(".ipynb")]))
    if name.startswith("lstm"):  # whose loop over steps is no part of a handout
        text += "steps_one_by_one h           error 0.0e+00\n"
    check_digits(name.removesuffix(".ipynb"), text)


@pytest.mark.slow
def test_a_blank_notebook_stops_at_the_first_function_that_is_not_written(folder: Path) -> None:
    from nbclient import exceptions

    message = r"NotImplementedError\S*: rnn_step_forward is not written yet\n"  # in colours
    with pytest.raises(exceptions.CellExecutionError, match=message):
        run_in(folder, "rnn_captioning.ipynb", "PICTURES, VAL_PICTURES = 60, 8")


def test_files_of_a_handout_give_the_published_numbers_once_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As files of their own, which import each other by bare names."""

    names = table.HANDED_OUT
    handout(tmp_path, blank=[])
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        layers, captioner, rules = (importlib.import_module(name) for name in names[:3])
        assert Path(str(captioner.__file__)).parent == tmp_path
        rows = list(verify(layers=layers, optim=rules, captioner=captioner.CaptioningRNN))
        assert len(rows) > 60
        assert [row for row in rows if not row.passed] == []
    finally:
        for name in names:
            sys.modules.pop(name, None)
