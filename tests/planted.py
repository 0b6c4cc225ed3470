"""Plant mistakes that GPU paths are known for, one at a time in a copy, and show that tests without a card catch each.

python tests/planted.py runs them all; python tests/excerpts.py writes the table of docs/gpu.md.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mistakes import MISTAKES, Mistake
from nursery import Nursery, Result

ROOT = Path(__file__).parent.parent
COPIED = ("xpcap", "tests", "pyproject.toml")


class Attempt(NamedTuple):
    """A mistake that was planted: whether its test caught it, and what was said."""

    mistake: Mistake
    caught: bool
    said: str


def prepare(folder: Path) -> Path:
    """A copy of what the tests need, in `folder`."""
    base = folder.resolve() / "base"
    base.mkdir()
    for path in (ROOT / name for name in COPIED):
        if path.is_dir():
            shutil.copytree(path, base / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, base)
    return base


def check(nursery: Nursery, base: Path, mistakes: Sequence[Mistake]) -> None:
    """AssertionError: without a mistake, one of the tests does not run and pass. The compiled files that this leaves serve the copies."""
    tests = sorted({mistake.test for mistake in mistakes})
    results = nursery.run(base, tests)
    assert results == [Result("passed", "")] * len(tests), [result for result in results if result.outcome != "passed"]


def attempt(nursery: Nursery, base: Path, mistake: Mistake) -> Attempt:
    """Plant a mistake in a copy of `base`, and run the test that is to catch it."""
    root = base.parent / mistake.name
    shutil.copytree(base, root, ignore=shutil.ignore_patterns("temporary"))
    mistake.plant(root)
    result = nursery.run(root, [mistake.test])[0]
    shutil.rmtree(root)
    return Attempt(mistake, result.outcome == "failed" and mistake.says in result.why, f"{result.outcome} {result.why}".strip())


def table() -> Iterator[str]:
    """The mistakes as lines of Markdown."""
    yield "| mistake | where | caught by | which says |"
    yield "|---|---|---|---|"
    for mistake in MISTAKES:
        function = f"`{mistake.function}` in " if mistake.function else ""
        cells = mistake.kind, f"{function}`{mistake.file}`", f"`{mistake.test.split('::')[1]}`", f"`{mistake.says}`"
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    slipped = []
    with tempfile.TemporaryDirectory(prefix="xpcap-planted-") as folder, Nursery() as nursery:
        base = prepare(Path(folder))
        check(nursery, base, MISTAKES)
        for mistake in MISTAKES:
            tried = attempt(nursery, base, mistake)
            print(f"{'caught' if tried.caught else 'MISSED'}  {mistake.name}", flush=True)
            if not tried.caught:
                slipped.append(f"{mistake.name}: expected a failure of {mistake.test} with {mistake.says!r}, got: {tried.said}")
    sys.exit("\n\n".join(slipped) or 0)


if __name__ == "__main__":
    main()
