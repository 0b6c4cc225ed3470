"""Reports derive the line that they name, in the words of docs/explain/lstm.md."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from xpcap.cs231n import table
from xpcap.cs231n.grading.derivation import LINES, RULES, Row, derivation
from xpcap.cs231n.reference import rnn_layers

PAGE_FILE = Path(__file__).parents[2] / "docs" / "explain" / "lstm.md"
LATEX = [  # what stands for it in a report
    (r"```python\n.*?```", ""),
    (r"\\(?:q?quad|left|right)\b|\\[, ]|```math|[&$*`]", ""),
    (r"\\frac\{1\}\{N\}", "1/N"),
    (r"\\text\{([^}]*)\}", r"\1"),
    (r"\^\\top", "ᵀ"),
    (r"\^2", "²"),
    (r"W_([xh])", r"W\1"),
    *(
        (rf"\\{name}", sign)
        for name, sign in zip(
            ("odot", "sum", "sigma", "delta", "varphi", "cdot"), "⊙Σσδφ·", strict=True
        )
    ),
    (r"\\(tanh|log|max)", r"\1"),
    (r"\s+", ""),
]


def plain(text: str) -> str:
    """Markdown with LaTeX as the signs of a report, without any space."""
    for pattern, sign in LATEX:
        text = re.sub(pattern, sign, text, flags=re.DOTALL)
    return text


PAGE = PAGE_FILE.read_text(encoding="utf-8")
WHOLE = plain(PAGE)


@pytest.mark.parametrize("row", LINES, ids=lambda row: f"{row.functions[0]}-{row.variables[0]}")
def test_the_equations_of_a_report_stand_on_the_page(row: Row) -> None:
    for equation in f"{row.forward}; {row.gradient}".split("; "):
        assert plain(equation) in WHOLE, equation
    for label in filter(None, row.label.split(", ")):
        assert f"| {label} |" in PAGE
        assert f"**{label}**" in PAGE


@pytest.mark.parametrize("number", [one for one in RULES if one.isdigit()])
def test_the_rules_of_a_report_are_those_of_the_page(number: str) -> None:
    (rule,) = re.findall(rf"^{number}\. \*\*.*?(?=\n\d\. |\n#)", PAGE, re.M | re.S)
    assert plain(RULES[number].split(": ", 1)[-1]).lower() in plain(rule).lower()


def test_a_line_of_the_forward_pass_has_the_label_that_the_page_gives_it() -> None:
    forward = PAGE.partition("| F6, F5 |")[0]
    labels = dict(re.findall(r"^\| (F\d) \| (.*?) \|", forward, re.M))
    assert len(labels) == 6
    for row in LINES:
        for label in filter(None, row.label.split(", ")[:1]):
            assert plain(row.forward) == plain(labels[label])


def targets(function: str) -> set[str]:
    """Variables that a layer computes; not those that it takes from arguments or the cache."""
    tree = ast.parse(inspect.getsource(getattr(rnn_layers, function)))
    return {
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) not in ("cache", "x.shape")
    }


def test_every_line_of_a_step_is_derived() -> None:
    for step in ("lstm_step", "rnn_step"):
        for function in (f"{step}_forward", f"{step}_backward"):
            assert [one for one in targets(function) if not derivation(function, one)] == []


def test_every_gradient_of_what_students_write_is_derived() -> None:
    for row in table.functions(table.HANDED_IN):
        if row.forward:
            assert [one for one in row.results if not derivation(row.name, one)] == []
    for name in ("proj", "vocab"):
        for kind in "Wb":
            target = f"grads['{kind}_{name}']"
            assert f"d{kind}_{{{name}}} =" in derivation("CaptioningRNN.loss (rnn)", target)


def test_a_derivation_is_a_few_lines_of_mathematics_and_no_program() -> None:
    text = derivation("lstm_step_backward", "di")
    assert text.splitlines()[0] == "F4: c_t = f ⊙ c_{t-1} + i ⊙ g"
    assert "di = δ ⊙ g" in text
    both = derivation("lstm_backward", "dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t")
    assert "dh_t = dh^{own}_t + da_{t+1} Whᵀ" in both
    assert "dc_t = δ_{t+1} ⊙ f_{t+1}" in both
    for row in LINES:
        text = derivation(row.functions[0], row.variables[0])
        assert 1 <= len(text.splitlines()) <= 7
        assert not re.search(r"np\.|@|\.T\b|`", text)
    assert derivation("adam", "m_hat") == derivation("lstm_forward", "cache") == ""
