"""The progress bar: drawn on a terminal, silent everywhere else."""

from collections.abc import Iterable
from typing import Any


def bar(things: Iterable[Any], shown: bool, label: str, total: int | None = None, done: int = 0) -> Any:
    """`things` behind a progress bar on standard error, where that is a terminal and `shown` is set."""
    from tqdm import tqdm

    return tqdm(things, desc=label, total=total, initial=done, disable=None if shown else True, leave=False, mininterval=0.5)


def say(line: str) -> None:
    """Print a line without breaking a bar that is on the screen."""
    from tqdm import tqdm

    tqdm.write(line)
