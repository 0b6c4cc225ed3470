"""A few bad inputs of each kind; `make fuzz`, each night, opens ten thousand of each."""

import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL")
pytest.importorskip("jinja2")

import fuzz
from fuzzing import spoiling

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="peak memory cannot be asked for")


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_bad_input_is_read_or_refused_in_bounded_time_and_memory(kind: str) -> None:
    result = fuzz.run_cases(kind, 50, seed=20)
    assert result.broken == []
    assert result.outcomes["refused"] > 12
    assert result.outcomes["accepted"] > 1
    assert result.outcomes.total() == 50


class Broken:
    """A kind whose cases do what none should."""

    def make(self, draw: random.Random, folder: Path) -> None:
        (folder / "x").write_text(str(draw.random()))

    def use(self, folder: Path) -> None:
        raise ZeroDivisionError


def test_an_unexpected_error_is_told() -> None:
    outcome, _ = fuzz._try(Broken(), "any")
    assert outcome.startswith("ZeroDivisionError")


def test_a_case_can_be_made_again_from_its_number(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8
    once, again, other = (
        spoiling.spoil_bytes(content, random.Random(name))
        for name in ("dataset 0 7", "dataset 0 7", "dataset 0 8")
    )
    assert once == again != other
