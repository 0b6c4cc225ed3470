"""Handouts: the course's files with blanks where students write, and notebooks that use them.

`python -m xpcap.exercise.handout FOLDER NOTEBOOKS...` writes a folder.
"""

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import click

from xpcap.errors import EXPECTED, DataError, OptionError, nearest
from xpcap.files import read_text, require_new_file, write_text

FILES = ("rnn_layers.py", "rnn.py", "optim.py", "captioning_solver.py", "coco_utils.py")
BLANK = (  # what the course has students write
    "rnn_step_forward",
    "rnn_step_backward",
    "rnn_forward",
    "rnn_backward",
    "word_embedding_forward",
    "word_embedding_backward",
    "lstm_step_forward",
    "lstm_step_backward",
    "lstm_forward",
    "lstm_backward",
    "CaptioningRNN.loss",
    "CaptioningRNN.sample",
)
LIBRARY = "xpcap"  # tag of cells about xpcap itself, which handouts leave out
MOST = 50_000_000  # bytes of a notebook
ANSWER = re.compile(r"\n*<details>.*?</details>", re.DOTALL)
INTRODUCTION = """{title}

Write the functions marked `TODO` in {files}, in this notebook's folder, and run the cells from top to bottom. On Colab, upload
all files of the handout first. A cell that needs a function you have not written stops with `NotImplementedError`, which names it. A changed
file takes effect when you run a cell again.

To check your functions one by one, and to learn where one goes wrong, run this in a terminal, or in a cell with `!` in front:

    python -m xpcap verify --against rnn_layers.py"""
RELOAD = "%load_ext autoreload\n%autoreload 2\n\n"


def handout(
    folder: str | Path, notebooks: Sequence[str | Path] = (), *, blank: Sequence[str] = BLANK
) -> dict[Path, list[str]]:
    """Write a folder to hand out; returns its files, each with the functions to write in it.

    Parameters
    ----------
    folder : new, or without files of these names
    notebooks : notebooks that import the course's functions and classes from xpcap. In the handout
        they import them from the files, and have no outputs, no ``<details>`` blocks, and no cells
        tagged "xpcap"
    blank : functions to blank out, as patterns: "lstm_step_forward", "CaptioningRNN.loss", "lstm_*"

    Raises
    ------
    OptionError : a pattern that fits no function, or a file that cannot be written or exists.
    DataError : no notebook, or one that uses the library's functions without importing their names.
    """
    sources = {name: course_file(name) for name in FILES}
    known = [name for source in sources.values() for name, _ in functions(source)]
    for pattern in blank:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise OptionError(
                "handout",
                "",
                f"no function is called {pattern!r}",
                expected="a name or a pattern such as 'lstm_step_forward' or 'CaptioningRNN.*'",
                cause=nearest(pattern, known),
            )
    chosen = {name for name in known if any(fnmatchcase(name, pattern) for pattern in blank)}
    written, texts = {}, {}
    for file, source in sources.items():
        written[file] = [name for name, _ in functions(source) if name in chosen]
        texts[file] = with_blanks(source, chosen)
    to_write = [f"`{file}`" for file, names in written.items() if names]
    for notebook in map(Path, notebooks):
        texts[notebook.name] = _without_answers(notebook, sources, " and ".join(to_write))
    folder = Path(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
    for file in texts:
        require_new_file("handout", folder / file, OptionError)
    for file, text in texts.items():
        write_text(folder / file, text)
    return {folder / file: written.get(file, []) for file in texts}


def course_file(name: str) -> str:
    """Source of one of the course's files in plain NumPy, importing the others by bare names."""
    source = resources.files("xpcap.exercise.reference").joinpath(name).read_text(encoding="utf-8")
    source = source.replace("from xpcap.exercise.reference import ", "import ")
    return source.replace("xpcap.exercise.reference.", "")


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions, and methods as "Class.method", with their syntax tree, in the file's order."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield f"{node.name}.{method.name}", method


def with_blanks(source: str, blank: Collection[str]) -> str:
    """The source with signature and docstring alone of the functions in `blank`, which raise."""
    lines = source.splitlines()
    for name, node in reversed(list(functions(source))):
        if name in blank:
            has_docstring = ast.get_docstring(node) is not None
            after = node.body[0].end_lineno if has_docstring else node.body[0].lineno - 1
            indent = " " * node.body[0].col_offset
            raises = f'raise NotImplementedError("{name} is not written yet")'
            lines[after : node.end_lineno] = [f"{indent}# TODO", indent + raises]
    return "\n".join(lines) + "\n"


def _without_answers(path: Path, sources: Mapping[str, str], to_write: str) -> str:
    """A notebook as JSON, to be worked through with the files of the handout."""
    try:
        notebook = json.loads(read_text(path, MOST))
        cells = [_cell(cell, sources) for cell in notebook["cells"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "handout", path, f"is no notebook ({error})", expected="a file of Jupyter's, .ipynb"
        ) from None
    if found := _use_of_library(cells, sources):
        raise DataError(
            "handout",
            path,
            f"has {found}, which would run the library's solution",
            expected="an import by name, such as from xpcap.layers import lstm_forward",
        )
    title = cells[0]["source"].partition("\n")[0] if cells else ""
    first = {
        "cell_type": "markdown",
        "id": "handout",
        "metadata": {},
        "source": INTRODUCTION.format(title=title, files=to_write or "the files"),
    }
    kept = [cell for cell in cells if LIBRARY not in cell["metadata"].get("tags", ())]
    notebook["cells"] = [first, *kept]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(cell: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """A cell without answers and outputs, that imports what `sources` define from them."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "code":
        return {
            **cell,
            "source": _imports_from(sources, text),
            "outputs": [],
            "execution_count": None,
        }
    return {**cell, "source": ANSWER.sub("", text)}


def _imports_from(sources: Mapping[str, str], code: str) -> str:
    """Code whose ``from xpcap... import`` statements name the handout's files where they can."""
    if not re.search(r"^from xpcap\b", code, re.MULTILINE):
        return code
    owner, lines = _owners(sources), code.splitlines()
    for node in reversed(ast.parse(code).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xpcap":
            names: dict[str, list[str]] = {}  # by module
            for alias in node.names:
                module = owner.get(alias.name, str(node.module))
                names.setdefault(module, []).append(ast.unparse(alias))
            lines[node.lineno - 1 : node.end_lineno] = [
                line for module in names for line in _import(module, names[module])
            ]
    changed = "\n".join(lines)
    return code if changed == code else RELOAD + changed


def _owners(sources: Mapping[str, str]) -> dict[str, str]:
    """The module of each function and class of the handout's files."""
    return {
        node.name: file.removesuffix(".py")
        for file, source in sources.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def _use_of_library(cells: Sequence[Mapping[str, Any]], sources: Mapping[str, str]) -> str:
    """Names that a cell takes from xpcap although the handout defines them; "" for none."""
    names = "|".join(_owners(sources))
    pattern = rf"\bxpcap\.(?:\w+\.)*(?:{names})\b|^from xpcap\S* import \*"
    for cell in cells:
        ours = cell["cell_type"] != "code" or LIBRARY in cell["metadata"].get("tags", ())
        if not ours and (found := re.search(pattern, cell["source"], re.MULTILINE)):
            return found[0]
    return ""


def _import(module: str, names: Sequence[str]) -> list[str]:
    """Lines of an import statement, one name a line where there are many."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) > 100:
        return [f"from {module} import (", *(f"    {name}," for name in names), ")"]
    return [line]


@click.command(
    epilog="Example: python -m xpcap.exercise.handout handout docs/tutorials/rnn_captioning.ipynb"
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("notebooks", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--blank",
    multiple=True,
    default=BLANK,
    metavar="PATTERN",
    help="Function to leave to the students, such as lstm_step_forward or 'lstm_*'; may be given"
    " several times.  [default: what CS231n has its students write]",
)
def main(folder: Path, notebooks: Sequence[Path], blank: Sequence[str]) -> None:
    """Write a FOLDER to hand out: the course's files with blanks, and NOTEBOOKS that use them."""
    try:
        files = handout(folder, notebooks, blank=blank)
    except (OSError, *EXPECTED) as error:
        raise click.ClickException(str(error)) from None
    for path, names in files.items():
        click.echo(f"{path}: to write: {', '.join(names)}" if names else path)
