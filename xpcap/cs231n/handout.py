"""Handouts: the course's files with blanks where students write, notebooks, and a README.

`python -m xpcap.cs231n.handout FOLDER NOTEBOOKS...` writes a folder. table.py lists files,
functions and shapes, blanks.md has the texts of the blanks, student.md the students' README.
"""

import ast
import functools
import json
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import click

from xpcap.cs231n import table
from xpcap.cs231n.grading.run import PACKAGES
from xpcap.errors import EXPECTED, DataError, OptionError, nearest
from xpcap.files.read_write import read_text, require_new_file, write_new

TO_WRITE = tuple(
    dict.fromkeys(row.method for row in table.functions(table.HANDED_IN) if row.points)
)
LIBRARY = "xpcap"  # tag of cells about xpcap itself, which handouts leave out
MAX_BYTES = 50_000_000  # of a notebook
NOTEBOOK = "a Jupyter notebook (.ipynb)"
ANSWER = re.compile(r"\n*<details><summary>Answer</summary>.*?</details>\n*", re.DOTALL)
ASIDE = re.compile(r"\n*<details>.*?</details>", re.DOTALL)
TIME = re.compile(r"takes (about [\w ]+?) on")  # running time, as a notebook states it
NOT_RUN: dict[str, Any] = {"outputs": [], "execution_count": None}
INTRODUCTION = """{title}

Write the functions that are marked in {files}, in this notebook's folder, and run the cells from top to bottom. On Colab, upload
all files of the handout first. A cell that needs a function you have not written stops with `NotImplementedError`, which names it. A changed
file takes effect when you run a cell again.

README.md has what to install, how to check a file, and what to hand in."""
START = """import os

# One thread: products of this size take longer on several. NumPy reads this when it is imported
libraries = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
os.environ |= dict.fromkeys(libraries, "1")

%load_ext autoreload
%autoreload 2

""" + "\n".join(f"from {module} import *" for module in table.HANDED_OUT)


def handout(
    folder: str | Path, notebooks: Sequence[str | Path] = (), *, blank: Sequence[str] = TO_WRITE
) -> dict[Path, list[str]]:
    """Write a folder to hand out; returns its files, each with the functions to write in it.

    folder : new, or without files of these names
    notebooks : notebooks that import the course's functions and classes from xpcap in cells tagged
        "xpcap". The handout leaves out these cells, outputs and ``<details>`` blocks, and has a cell
        for each answer; the names come from its files
    blank : functions to blank out, as patterns: "lstm_step_forward", "CaptioningRNN.loss", "lstm_*"
    OptionError : a pattern matches no function, two files have the same name, or a file exists or
        cannot be written.
    DataError : a file is not a notebook, or would run the library's functions.
    """
    sources = {f"{module}.py": table.source(module, "") for module in table.HANDED_OUT}
    names = {file: [name for name, _ in functions(source)] for file, source in sources.items()}
    known = [name for file_names in names.values() for name in file_names]
    blank = tuple(blank)
    for pattern in blank:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise OptionError(
                f"no function is called {pattern!r}, expected a name or a pattern such as"
                f" 'lstm_step_forward' or 'CaptioningRNN.*'; {nearest(pattern, known)}"
            )
    chosen = {name for name in known if any(fnmatchcase(name, pattern) for pattern in blank)}
    written = {file: [n for n in file_names if n in chosen] for file, file_names in names.items()}
    texts = {file: with_blanks(source, chosen) for file, source in sources.items()}
    to_write = {file: file_names for file, file_names in written.items() if file_names}
    defined = {name.partition(".")[0] for name in known}
    for notebook in map(Path, notebooks):
        text = _without_answers(notebook, defined, _listed(to_write))
        if notebook.name in {*texts, "README.md"}:
            raise OptionError(
                f"{notebook} has the name of another file of the handout, expected another name"
            )
        texts[notebook.name] = text
    texts["README.md"] = _readme(texts, to_write)
    folder = Path(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
    for file in texts:
        require_new_file(folder / file, error=OptionError)
    for file, text in texts.items():
        write_new(folder / file, text, error=OptionError)
    return {folder / file: written.get(file, []) for file in texts}


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions, and methods as "Class.method", with their syntax trees, in the file's order."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield f"{node.name}.{method.name}", method


def with_blanks(source: str, blank: Collection[str]) -> str:
    """The source in which the body of each function in `blank` is a blank that raises."""
    lines = source.splitlines()
    for name, node in reversed(list(functions(source))):
        if name in blank:
            first = node.body[0]
            body = _blank(name, ast.get_docstring(node) or "")
            body = textwrap.indent(body, " " * first.col_offset)
            lines[first.lineno - 1 : node.end_lineno] = [
                line.rstrip() for line in body.splitlines()
            ]
    return "\n".join(lines) + "\n"


class Section(NamedTuple):
    """A function's section of blanks.md: meanings of arrays, given code, and the comment."""

    arrays: Mapping[str, str]
    given: str
    comment: str


@functools.cache
def sections() -> dict[str, Section]:
    """Sections of blanks.md by function; "arrays" has the default meanings of arrays."""
    by_name = {}
    for name, text in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", _text("blanks.md"), re.M | re.S):
        arrays = re.findall(r"^(\w+) : (.*)\n", text, re.M)
        given = re.search(r"```python\n(.*?)```\n", text, re.S)
        comment = re.sub(r"^\w+ : .*\n|```python\n(?s:.*?)```\n", "", text, flags=re.M)
        by_name[name] = Section(dict(arrays), given[1] if given else "", comment.strip())
    return by_name


def _blank(name: str, docstring: str) -> str:
    """The body of a function to write; without instructions if blanks.md has no section for it."""
    section = sections().get(name)
    comment = textwrap.indent(section.comment, "# ", lambda _: True) + "\n" if section else ""
    code = f"""# ----- START of your code: {name} -----
{comment}raise NotImplementedError("{name} is not written yet")  # replace this by your code
# ----- END of your code: {name} -----"""
    if section is None:
        return f'"""{docstring}"""\n{code}'
    row = next(row for row in table.FUNCTIONS.values() if row.method == name)
    arguments, results = (
        {key: str(entry.forms[0]) for key, entry in entries.items()}
        for entries in (row.arguments, row.results)
    )
    meanings = {**sections()["arrays"].arrays, **section.arrays}
    if row.forward:
        arguments["cache"] = "()"
        meanings["cache"] = f"what {row.forward} put into it"
    elif row.module == "rnn_layers":
        backward = name.replace("_forward", "_backward")
        results["cache"] = "()"
        meanings["cache"] = f"what {backward} will read"
    listed = (
        "\n".join(
            f"- {key} {shape}".removesuffix(" ()")
            + f": {meanings.get(key) or f'gradient of the loss with respect to {key[1:]}'}"
            for key, shape in shapes.items()
        )
        for shapes in (arguments, results)
    )
    names = ", ".join(results)
    given = section.given or f"{names} = {', '.join(['None'] * len(results))}\n"
    title = docstring.partition(":")[0].rstrip(".")
    arrays = "Arguments:\n{}\n\nResults:\n{}".format(*listed)
    return f'"""{title}.\n\n{arrays}\n"""\n{given}{code}\nreturn {names}'


def _without_answers(path: Path, defined: Collection[str], files: str) -> str:
    """A notebook as JSON without answers, for students whose files define the names in `defined`."""
    text = read_text(path, MAX_BYTES, NOTEBOOK)
    try:
        notebook = json.loads(text)
        cells = [new for cell in notebook["cells"] for new in _cells(cell)]
        title = "".join(notebook["cells"][0]["source"]).partition("\n")[0]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a notebook ({error}), expected {NOTEBOOK}") from None
    names = "|".join(sorted(defined))
    imports = rf"\bxpcap(?:\.\w+)*(?:\.| import (?:[^()\n]*|\([^)]*))\b(?:{names})\b"
    imports += r"|^\s*from xpcap\S* import \*|^\s*import xpcap\S* as \w+"
    imports += r"|\bfrom xpcap import [^\n]*\b(?:layers|models|optim)\b"
    for cell in cells:
        if cell["cell_type"] == "code" and (use := re.search(imports, cell["source"], re.M)):
            raise DataError(
                f"{path} has {' '.join(use[0].split())}, which would run the library's solution,"
                f" expected imports of these names in a cell that is tagged {LIBRARY}"
            )
    introduction = INTRODUCTION.format(title=title, files=files)
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": introduction},
        {"cell_type": "code", "metadata": {}, "source": START, **NOT_RUN},
        *cells,
    ]
    notebook["cells"] = [{**cell, "id": f"cell-{k:02}"} for k, cell in enumerate(cells)]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cells(cell: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The cells of a handout for a cell: without outputs, with a cell to write in for each answer."""
    text = "".join(cell["source"])
    if LIBRARY in cell["metadata"].get("tags", ()):
        return
    if cell["cell_type"] == "code":
        yield {**cell, "source": text, **NOT_RUN}
        return
    for piece in ANSWER.sub("\0*Your answer:*\0", text).split("\0"):
        if piece := ASIDE.sub("", piece).strip():
            yield {**cell, "source": piece}


def _readme(texts: Mapping[str, str], to_write: Mapping[str, Sequence[str]]) -> str:
    """The README of a handout with these files."""
    files = [
        f"- `{f}`: {', '.join(f'`{name}`' for name in names)}" for f, names in to_write.items()
    ]
    notebooks = [
        f"- `{file}` takes {time[1] if (time := TIME.search(text)) else 'a while'}"
        for file, text in texts.items()
        if file.endswith(".ipynb")
    ]
    return _text("student.md").format(
        files="\n".join(files),
        notebooks="\n".join(notebooks),
        packages=PACKAGES,
        hand_in=_listed(to_write),
    )


def _listed(files: Collection[str]) -> str:
    return " and ".join(f"`{file}`" for file in files) or "the files"


def _text(name: str) -> str:
    return resources.files("xpcap.cs231n").joinpath(name).read_text(encoding="utf-8")


@click.command(
    epilog="Example: python -m xpcap.cs231n.handout handout docs/tutorials/rnn_captioning.ipynb"
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("notebooks", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--blank",
    multiple=True,
    default=TO_WRITE,
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


if __name__ == "__main__":
    main()
