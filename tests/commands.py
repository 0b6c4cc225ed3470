"""Commands as people type them, called from tests."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from xpcap.cli import main
from xpcap.data import CaptionData
from xpcap.data.pictures import generate

SMALL = ["--hidden", "16", "--wordvec", "8", "--epochs", "2"]


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def good(*args: object) -> Result:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def few(seed: int) -> CaptionData:
    return generate(seed, train=60, val=14)


def failing(args: list[Any], *words: str) -> None:
    """The command fails with one message, no traceback, and leaves the folder as it found it."""
    before = sorted(Path().rglob("*"))
    result = call(*args)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.output.splitlines()[-1].startswith("Error: ")
    for word in words:
        assert word in result.output
    assert sorted(Path().rglob("*")) == before
