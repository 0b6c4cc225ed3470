"""Planted mistakes are caught: see planted.py. Each is made in a copy, two at a time, and only those whose tests were asked for."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import planted
import pytest
import twin
from emulated import MISSING, real
from planted import MISTAKES, Mistake


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project; skipped, with the reason, where the tests in it could not run."""
    if not real.is_installed():
        pytest.skip(MISSING)
    try:
        twin.compiler()
    except twin.UnavailableError as reason:
        pytest.skip(str(reason))
    return planted.prepare(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def attempts(base: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[planted.Attempt]]]:
    """By name, the mistakes that were chosen, all begun at once."""
    wanted = [item.callspec.params["mistake"] for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    with ThreadPoolExecutor(planted.AT_ONCE) as pool:
        yield {mistake.name: pool.submit(planted.attempt, base, mistake) for mistake in wanted}
        pool.shutdown(cancel_futures=True)


def test_planted_mistakes_are_many_and_their_lines_are_still_there(tmp_path: Path) -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 20
    for mistake in MISTAKES:
        (tmp_path / mistake.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mistake.file).write_bytes((planted.ROOT / mistake.file).read_bytes())
        mistake.plant(tmp_path)


def test_planted_copy_without_a_mistake_passes(base: Path) -> None:
    planted.check(base, MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_planted_mistake_is_caught(mistake: Mistake, attempts: dict[str, Future[planted.Attempt]]) -> None:
    tried = attempts[mistake.name].result()
    assert tried.caught, f"expected {mistake.test} to fail with {mistake.says!r}, got: {tried.said}"
