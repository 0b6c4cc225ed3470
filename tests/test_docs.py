"""The docs keep up with the code: every command and option is described, and code blocks run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from xpcap.cli import main

ROOT = Path(__file__).parent.parent
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


BLOCKS = [block for path in sorted((ROOT / "docs").glob("*.md")) for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)]


def section(name: str) -> str:
    return COMMANDS.split(f"\n## {name}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", list(main.commands))
def test_every_option_of_a_command_is_described(name: str) -> None:
    rows = set(re.findall(r"^\| `([^`]+)`", section(name), re.MULTILINE))
    options = {p.opts[-1] for p in main.commands[name].params if isinstance(p, click.Option)}
    assert rows == options
    assert f"python cli.py {name}" in section(name)
    assert "Examples:" in (main.commands[name].epilog or "")
    assert all(p.help for p in main.commands[name].params if isinstance(p, click.Option))


@pytest.mark.parametrize("option", [p for p in main.commands["train"].params if isinstance(p, click.Option)], ids=lambda p: p.name)
def test_defaults_in_the_docs_are_those_of_the_command(option: click.Option) -> None:
    if option.default is None or not isinstance(option.default, int | float | str):
        return
    row = re.search(rf"^\| `{option.opts[-1]}` \| ([^|]+) \|", section("train"), re.MULTILINE)
    assert row
    assert row[1] == (f"{option.default:g}" if isinstance(option.default, float) else str(option.default))


@pytest.mark.parametrize("block", BLOCKS)
def test_code_blocks_run(block: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert len(links) > 4
    for link in links:
        assert (ROOT / link).exists(), link


def test_top_level_cli_is_the_command_line() -> None:
    result = subprocess.run([sys.executable, ROOT / "cli.py", "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    for name in main.commands:
        assert f"\n  {name} " in result.stdout
