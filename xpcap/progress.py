"""Progress bars, drawn on a terminal only."""

from collections.abc import Iterable
from typing import Any


def bar(things: Iterable[Any], shown: bool, label: str, total: int | None = None, done: int = 0) -> Any:
    """`things` with a progress bar on standard error, if that is a terminal and `shown` is set."""
    from tqdm import tqdm

    return tqdm(things, desc=label, total=total, initial=done, disable=None if shown else True, leave=False, mininterval=0.5)


def say(line: str) -> None:
    """Print a line without breaking a bar on the screen."""
    from tqdm import tqdm

    tqdm.write(line)
