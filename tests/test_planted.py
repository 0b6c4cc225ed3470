"""Planted mistakes are caught: see mistakes.py. Each is made in a copy of the project; that the code has a place for each is looked up in any case."""

from collections.abc import Iterator
from pathlib import Path

import planted
import pytest
import twin
from emulated import MISSING, real
from mistakes import MISTAKES, Mistake
from nursery import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Skipped, with the reason, where the tests of a copy could not run."""
    if not real.is_installed():
        pytest.skip(MISSING)
    try:
        twin.compiler()
    except twin.UnavailableError as reason:
        pytest.skip(str(reason))
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project."""
    return planted.prepare(tmp_path_factory.mktemp("planted"))


def test_planted_mistakes_are_many_and_each_changes_one_place(tmp_path: Path) -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 70
    for mistake in MISTAKES:
        (tmp_path / mistake.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mistake.file).write_bytes((planted.ROOT / mistake.file).read_bytes())
        mistake.plant(tmp_path)


@pytest.mark.hunt
def test_planted_copy_without_a_mistake_passes(nursery: Nursery, base: Path) -> None:
    planted.check(nursery, base, MISTAKES)


@pytest.mark.hunt
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_planted_mistake_is_caught(mistake: Mistake, nursery: Nursery, base: Path) -> None:
    tried = planted.attempt(nursery, base, mistake)
    assert tried.caught, f"expected {mistake.test} to fail with {mistake.says!r}, got: {tried.said}"
