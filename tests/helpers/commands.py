"""Commands as people type them, called from tests."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from xpcap.cli import main
from xpcap.data import CaptionData
from xpcap.drawings import generate
from xpcap.trainer import train

SIZES = ["--hidden", "16", "--wordvec", "8", "--inject", "init"]
# with a decay after which more epochs can follow
SMALL = [*SIZES, "--lr-decay", "0.5", "--epochs", "2", "--score-epochs", "0"]


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def good(*args: object) -> Result:
    result = call(*args)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # no error that a command expects: its output has no word of it
    assert result.exit_code == 0, f"exit status {result.exit_code}: {result.output}"
    return result


def answer(*args: object) -> Any:
    """What a command prints with --json."""
    return json.loads(good(*args, "--json").stdout)


def few(seed: int, *, progress: bool = False) -> CaptionData:
    """Generated pictures by the dozen; drawn once for each seed."""
    return copy.deepcopy(_few(seed))


@functools.cache
def _few(seed: int) -> CaptionData:
    return generate(seed, train=60, val=14)


def use_few_pictures(patch: pytest.MonkeyPatch) -> None:
    """Training generates `few` pictures."""
    patch.setattr(train, "generate", few)


def failing(args: list[Any], *words: str, status: int = 1, left: tuple[str, ...] = ()) -> None:
    """The command fails with one message, no traceback, and leaves the folder as it found it, but
    for the files `left`; `status` 2 is that of a command line that makes no sense.
    """
    before = sorted(Path().rglob("*"))
    result = call(*args)
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.output.splitlines()[-1].startswith("Error: ")
    for word in words:
        assert word in result.output
    assert sorted(Path().rglob("*")) == sorted([*before, *map(Path, left)])
