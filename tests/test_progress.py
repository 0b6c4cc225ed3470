"""Progress of long work: a bar on a terminal, lines elsewhere."""

import os
import sys

import pytest

from xpcap.progress import LINE_SECONDS, MIN_REMAINING, Lines, bar, say


def test_without_a_terminal_a_line_comes_at_once_and_then_as_time_goes_by(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    for count in Lines(range(1000), "captioning", 1000, 0, clock=lambda: now[0]):
        now[0] = LINE_SECONDS * (count // 300)
    assert capsys.readouterr().err.splitlines() == [
        f"captioning: {done} of 1,000" for done in (0, 301, 601, 901)
    ]


def test_a_line_comes_before_the_first_thing_is_done_and_none_for_few_things(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bar((), "encoding", total=MIN_REMAINING, lines=True, shown=True)
    assert capsys.readouterr().err == f"encoding: 0 of {MIN_REMAINING}\n"
    list(bar(range(MIN_REMAINING - 1), "encoding", lines=True, shown=True))
    list(bar(range(MIN_REMAINING), "encoding", lines=True))
    list(bar(range(MIN_REMAINING), "encoding", shown=True))
    assert capsys.readouterr().err == ""


def test_a_process_without_streams_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a daemon, or under pythonw. A line for standard error does not go to standard output."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert len(list(bar(range(60), "encoding", lines=True, shown=True))) == 60
        say("a notice", err=True)
        patch.setattr(sys, "stdout", None)
        say("a result")
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_that_does_not_know_its_width_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container. A fresh pseudo-terminal has no columns."""
    ours, theirs = os.openpty()
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread that stays
    with open(ours, "rb", buffering=0) as shown, open(theirs, "w") as terminal:  # noqa: PTH123
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            list(bar(range(3), "encoding pictures", lines=True, shown=True))
        terminal.write("end")  # so that there is something to read in any case
        terminal.flush()
        assert b"\rencoding pictures:   0%|" in shown.read(10_000)
