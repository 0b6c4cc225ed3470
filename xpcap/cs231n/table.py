"""The exercise as one table: files, functions, arguments, results, points, what students write.

Handouts, grading, points, imports and reports read it. To add a function or file, add a row.
"""

import ast
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from xpcap.backend.shape_specs import Entry

PACKAGE = "cs231n"
FILES = {  # module: its file in the course's package
    "rnn_layers": "rnn_layers.py",
    "rnn": "classifiers/rnn.py",
    "optim": "optim.py",
    "captioning_solver": "captioning_solver.py",
    "coco_utils": "coco_utils.py",
    "gradient_check": "gradient_check.py",
}
HANDED_OUT = ("rnn_layers", "rnn", "optim", "captioning_solver", "coco_utils")
HANDED_IN = ("rnn_layers", "rnn")  # modules that students write, scored by default
CELLS = ("rnn", "lstm")  # of the captioner

# module: function | points | arguments -> results
# Points are weights; those of HANDED_IN add up to 100, and functions that the course gives have 0.
# A forward pass also returns its cache, which is the last argument of the backward pass. Gradients
# have the shapes of the arguments.
ROWS = """
rnn_layers: sigmoid | 0 | x:N,H -> out:N,H
rnn_layers: affine_forward | 0 | x:N,2,D w:2D,M b:M -> out:N,M
rnn_layers: affine_backward | 0 | dout:N,M -> dx dw db
rnn_layers: rnn_step_forward | 6 | x:N,D prev_h:N,H Wx:D,H Wh:H,H b:H -> next_h:N,H
rnn_layers: rnn_step_backward | 8 | dnext_h:N,H -> dx dprev_h dWx dWh db
rnn_layers: rnn_forward | 6 | x:N,T,D h0:N,H Wx:D,H Wh:H,H b:H -> h:N,T,H
rnn_layers: rnn_backward | 8 | dh:N,T,H -> dx dh0 dWx dWh db
rnn_layers: word_embedding_forward | 3 | x:N,T=i W:V,D -> out:N,T,D
rnn_layers: word_embedding_backward | 5 | dout:N,T,D -> dW
rnn_layers: lstm_step_forward | 8 | x:N,D prev_h:N,H prev_c:N,H Wx:D,4H Wh:H,4H b:4H -> next_h:N,H next_c:N,H
rnn_layers: lstm_step_backward | 14 | dnext_h:N,H dnext_c:N,H -> dx dprev_h dprev_c dWx dWh db
rnn_layers: lstm_forward | 6 | x:N,T,D h0:N,H Wx:D,4H Wh:H,4H b:4H -> h:N,T,H
rnn_layers: lstm_backward | 12 | dh:N,T,H -> dx dh0 dWx dWh db
rnn_layers: temporal_affine_forward | 0 | x:N,T,D w:D,M b:M -> out:N,T,M
rnn_layers: temporal_affine_backward | 0 | dout:N,T,M -> dx dw db
rnn_layers: temporal_softmax_loss | 0 | x:N,T,V y:N,T=i mask:N,T=b -> loss:() dx:N,T,V
rnn: CaptioningRNN.loss (rnn) | 7 | features:N,D captions:N,T+1=i -> loss:() grads
rnn: CaptioningRNN.loss (lstm) | 7 | features:N,D captions:N,T+1=i -> loss:() grads
rnn: CaptioningRNN.sample (rnn) | 5 | features:N,D -> captions:N,T=i
rnn: CaptioningRNN.sample (lstm) | 5 | features:N,D -> captions:N,T=i
optim: sgd | 0 | w:N,D dw:N,D -> next_w:N,D
optim: sgd_momentum | 3 | w:N,D dw:N,D -> next_w:N,D
optim: rmsprop | 3 | w:N,D dw:N,D -> next_w:N,D
optim: adam | 6 | w:N,D dw:N,D -> next_w:N,D
captioning_solver: CaptioningSolver | 0 | model data -> loss_history
"""


class Function(NamedTuple):
    """A row of the table.

    name : "lstm_step_forward", or for a captioner "CaptioningRNN.loss (lstm)"
    module : "rnn_layers"
    points : weight of its points; 0 for a function that the course gives
    arguments, results : name to `Entry`, which has the shape; a layer's cache is left out
    """

    name: str
    module: str
    points: int
    arguments: Mapping[str, Entry]
    results: Mapping[str, Entry]

    @property
    def method(self) -> str:
        """The name without the cell: "CaptioningRNN.loss"."""
        return self.name.partition(" ")[0]

    @property
    def cell(self) -> str:
        """The cell of a captioner or recurrent layer, "rnn" or "lstm"; "" for other functions."""
        cell = re.search(r"\((\w+)\)$|^(rnn|lstm)_", self.name)
        return (cell[1] or cell[2]) if cell else ""

    @property
    def defined(self) -> str:
        """The function or class that the file defines: "CaptioningRNN"."""
        return self.name.partition(".")[0]

    @property
    def passes(self) -> list[str]:
        """Names that a probe calls: a backward pass comes after its forward pass."""
        return [name for name in (self.forward, self.defined) if name]

    @property
    def forward(self) -> str:
        """The forward pass of a backward pass; "" for other functions."""
        layer = self.name.removesuffix("_backward")
        return f"{layer}_forward" if layer != self.name else ""

    @property
    def step(self) -> str:
        """The step function that a sequence function repeats; "" for other functions."""
        layer, _, direction = self.name.rpartition("_")
        return f"{layer}_step_{direction}" if layer in CELLS else ""


def _rows(text: str) -> dict[str, Function]:
    rows: dict[str, Function] = {}
    for line in text.strip().splitlines():
        name, points, spec = (part.strip() for part in line.split("|"))
        module, _, name = name.partition(": ")
        arguments, results = (
            {entry.name: entry for entry in map(_entry, side.split())} for side in spec.split("->")
        )
        if (forward := name.replace("_backward", "_forward")) != name:
            grads = {gradient(key): entry for key, entry in rows[forward].arguments.items()}
            results = {key: grads[key] for key in results}
        rows[name] = Function(name, module, int(points), arguments, results)
    return rows


def _entry(text: str) -> Entry:
    return Entry.parse(text if ":" in text else f"{text}:()")


def gradient(argument: str) -> str:
    """Name of the gradient of an argument: "dx" for "x"."""
    return f"d{argument}"


FUNCTIONS = _rows(ROWS)  # by name, in the order of the course


def functions(modules: Iterable[str]) -> list[Function]:
    """The functions of these modules, in the order of the course."""
    chosen = set(modules)
    return [row for row in FUNCTIONS.values() if row.module in chosen]


def points(modules: Sequence[str]) -> dict[str, float]:
    """Maximum points of each scored function of these modules, to two decimals; they add up to 100.

    If the table gives none of the functions points, all are worth the same.
    """
    rows = functions(modules)
    weights = {row.name: row.points for row in rows if row.points} or {row.name: 1 for row in rows}
    shares = {name: 10_000 * weight / sum(weights.values()) for name, weight in weights.items()}
    cents = {name: int(share) for name, share in shares.items()}
    most_cut = sorted(shares, key=lambda name: cents[name] - shares[name])
    for name in most_cut[: 10_000 - sum(cents.values())]:
        cents[name] += 1
    return {name: cent / 100 for name, cent in cents.items()}


def source(module: str, package: str) -> str:
    """The source of a reference module, importing the others from `package`, or by bare name if ""."""
    file = resources.files("xpcap.cs231n.reference").joinpath(f"{module}.py")
    text = file.read_text(encoding="utf-8")
    if not package:
        text = text.replace("from xpcap.cs231n.reference import ", "import ")
    return text.replace("xpcap.cs231n.reference.", f"{package}." if package else "").replace(
        "xpcap.cs231n.reference", package
    )


def part(module: str, names: Iterable[str]) -> str:
    """The source of these functions of a reference module; they need only NumPy."""
    text = source(module, PACKAGE)
    chosen = set(names)
    sources = [
        ast.get_source_segment(text, node)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name in chosen
    ]
    return "\n\n\n".join(["import numpy as np", *map(str, sources)]) + "\n"


@functools.cache
def calls(name: str) -> frozenset[str]:
    """Functions of the table that a function calls, by its source, or whose cache it reads."""
    row = FUNCTIONS[name]
    if row.module == "captioning_solver":
        return frozenset(("sgd", "adam"))  # by its argument `update_rule`
    names = {name for name in _names_read(row.module).get(row.method, ()) if name in FUNCTIONS}
    other_cells = {cell for cell in CELLS if row.cell and cell != row.cell}
    names = {name for name in names if FUNCTIONS[name].cell not in other_cells}
    return frozenset(names | ({row.forward} if row.forward else set()))


@functools.cache
def builds_on(name: str) -> frozenset[str]:
    """Functions that a function calls, directly or through others."""
    return calls(name).union(*map(builds_on, calls(name)))


@functools.cache
def _names_read(module: str) -> dict[str, frozenset[str]]:
    """The names that each function and method of a reference module reads."""
    names: dict[str, frozenset[str]] = {}

    def read(tree: ast.AST) -> frozenset[str]:
        return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))

    for node in ast.parse(source(module, PACKAGE)).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{getattr(n, 'name', '')}": read(n) for n in node.body}
        elif isinstance(node, ast.FunctionDef):
            names[node.name] = read(node)
    return names
