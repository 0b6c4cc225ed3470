"""The golden check names what changed, vanished or came: outputs, parts and threads."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("PIL")
import golden

Outputs = dict[str, dict[str, bytes]]
Check = Callable[..., str]


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Outputs:
    """What the parts of a stand-in for the table leave; a test may change it."""
    left = {"train": {"loss": b"1", "weights": b"2"}, "use": {"caption": b"a dog"}}

    def part(name: str) -> Callable[[golden.Chain], None]:
        def put(chain: golden.Chain) -> None:
            for output, content in left[name].items():
                chain.put(output, content)

        return put

    monkeypatch.setattr(golden, "PARTS", {name: (part(name), ()) for name in left})
    monkeypatch.setattr(golden, "USUAL", list(left))
    return left


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """A function of the arguments after the file's name; it returns what is printed, the exit
    status of a comparison last.
    """

    def call(action: str, *arguments: str) -> str:
        file = str(tmp_path / "hashes.json")
        monkeypatch.setattr(sys, "argv", ["golden.py", action, file, "--threads", "1", *arguments])
        if action == "write":
            golden.main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as end:
            golden.main()
        return f"{capsys.readouterr().out}{int(end.value.code or 0)}"

    return call


def test_equal_outputs_are_as_they_were(outputs: Outputs, check: Check) -> None:
    check("write")
    assert check("compare").endswith("3 hashes are as they were\n0")


def test_what_changed_vanished_or_came_is_named(outputs: Outputs, check: Check) -> None:
    check("write")
    outputs["train"] = {"loss": b"3", "speed": b"4"}
    printed = check("compare").splitlines()
    expected = ["train: loss differs", "train: speed is new", "train: weights is missing", "1"]
    assert [line.removeprefix("1 BLAS threads: ") for line in printed] == expected


def test_a_vanished_output_is_missing_when_fewer_parts_are_compared(
    outputs: Outputs, check: Check
) -> None:
    check("write")
    del outputs["train"]["weights"]
    printed = check("compare", "--only", "train")
    assert "weights is missing" in printed
    assert "as they were" not in printed
    assert printed.endswith("1")


def test_outputs_of_parts_that_were_not_run_are_not_missing(outputs: Outputs, check: Check) -> None:
    check("write")
    del outputs["use"]["caption"]
    assert check("compare", "--only", "train").endswith("2 hashes are as they were\n0")


def test_a_part_that_the_file_lacks_is_named(outputs: Outputs, check: Check) -> None:
    check("write", "--only", "train")
    assert check("compare") == "1 BLAS threads: use: not in the file\n1"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"skipped": "no MPI"}, {"skipped": "no MPI"}, []),
        ({"skipped": "no MPI"}, {"hashes": {}}, ["skipped before: no MPI"]),
        ({"hashes": {}}, {"skipped": "no MPI"}, ["skipped, but not before: no MPI"]),
    ],
)
def test_a_part_skipped_on_one_side_is_a_difference(
    before: golden.Outcome, after: golden.Outcome, expected: list[str]
) -> None:
    found = golden.differences({"1": {"ranks": before}}, {"1": {"ranks": after}})
    assert list(found) == [f"1: ranks: {line}" for line in expected]


def test_a_skipped_part_is_reported(
    outputs: Outputs, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ranks(chain: golden.Chain) -> None:
        raise golden.Skip("there is no mpiexec")

    monkeypatch.setitem(golden.PARTS, "ranks", (ranks, ()))
    assert "ranks skipped: there is no mpiexec" in check("write", "--only", "ranks")


def test_a_threads_number_that_the_file_lacks_is_named(outputs: Outputs, check: Check) -> None:
    check("write", "--threads", "2")
    assert "1 BLAS threads: train: not in the file" in check("compare")
