"""The current work: ranks, bars and remarks, said once, and left where it was entered."""

import ast
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from xpcap.cli.shared import begin
from xpcap.distributed import SINGLE, Group
from xpcap.distributed.work import Work, current, notice, work
from xpcap.progress import MIN_REMAINING, bar

PACKAGE = Path(__file__).parents[2] / "xpcap"
ENCODING = f"encoding: 0 of {MIN_REMAINING}\n"


class Second(Group):
    """The second of two ranks."""

    rank, size = 1, 2


def show_bar() -> None:
    bar((), "encoding", total=MIN_REMAINING, lines=True)


def test_what_a_work_leaves_open_stays_as_it_was_around(
    capsys: pytest.CaptureFixture[str],
) -> None:
    group, heard = Group(), []
    with work(group=group, progress=True, on_notice=heard.append), work():
        assert current().group is group
        notice("a folder has other files")
        show_bar()
    assert heard == ["a folder has other files"]
    assert capsys.readouterr().err == ENCODING
    show_bar()
    assert current().group is SINGLE
    assert capsys.readouterr().err == ""


def test_only_the_first_rank_shows_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with work(group=Second(), progress=True):
        show_bar()
    assert capsys.readouterr().err == ""


def test_a_remark_that_nobody_hears_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    notice("100 % of the words are known")
    assert [(one.name, one.levelname, one.message) for one in caplog.records] == [
        ("xpcap", "WARNING", "100 % of the words are known")
    ]


def test_threads_keep_their_remarks_and_bars_apart(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    both, heard = threading.Barrier(3), {"a": [], "b": []}

    def works(name: str) -> None:
        with work(on_notice=heard[name].append, progress=name == "a"):
            both.wait()  # all are at work
            notice(name)
            show_bar()
            both.wait()

    threads = [threading.Thread(target=works, args=name) for name in heard]
    for thread in threads:
        thread.start()
    both.wait()
    notice("nobody's")
    show_bar()
    both.wait()
    for thread in threads:
        thread.join()
    assert heard == {"a": ["a"], "b": ["b"]}
    assert [one.message for one in caplog.records] == ["nobody's"]
    assert capsys.readouterr().err == ENCODING


@pytest.mark.parametrize("fails", [False, True])
def test_a_command_leaves_its_work_when_it_ends(fails: bool) -> None:
    @click.command()
    def command() -> None:
        begin()
        notice("of the command")
        if fails:
            raise click.ClickException("on purpose")

    result = CliRunner().invoke(command)
    assert "notice: of the command" in result.stderr
    assert result.exit_code == fails
    assert current() == Work()


def nodes_of(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from (child, *nodes_of(child))


def test_no_generator_enters_work() -> None:
    """It would be its caller's work until the next thing is asked for."""
    enters, entered = re.compile(r"with [^\n]*\b(work|bars)\("), 0
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text("utf-8")
        if path.name == "work.py" or not re.search(r"\b(work|bars)\(", source):
            continue
        for function in ast.walk(ast.parse(source)):
            if isinstance(function, ast.FunctionDef):
                nodes = [*nodes_of(function)]
                withs = [ast.unparse(node) for node in nodes if isinstance(node, ast.With)]
                if any(enters.match(text) for text in withs):
                    entered += 1
                    yields = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes)
                    assert not yields, f"{path}: {function.name}"
    assert entered > 3
