"""What options need and exclude: every pair of the table, typed."""

import itertools
from pathlib import Path

import click
import pytest
from commands import call

from xpcap.cli import main
from xpcap.cli.rules import RULES, Excludes, Needs

PAIRS = [
    (command, rule, option, other)
    for command, rules in RULES.items()
    for rule in rules
    for option, other in itertools.product(rule.options, rule.others)
    if (command, other) != ("evaluate", "n_best")  # the one decoding option it lacks
]


def typed(command: str, *names: str) -> list[str]:
    """A command line with these options, and the arguments and options that it always needs."""
    words = [command]
    for param in main.commands[command].params:
        flag = [param.opts[-1]] if isinstance(param, click.Option) else []
        if param.required or param.name in names:
            words += flag if getattr(param, "is_flag", False) else [*flag, "1"]
    return words


def shown(command: str, name: str) -> str:
    """An option as messages have it."""
    (param,) = (param for param in main.commands[command].params if param.name == name)
    word = name.upper() if param.required else name
    return param.opts[-1] if isinstance(param, click.Option) else word


def with_needs(command: str, *names: str) -> set[str]:
    """Options, and the first of those that each needs."""
    complete = set(names)
    for rule in RULES[command]:
        needed = isinstance(rule, Needs) and complete & {*rule.options}
        if needed and not complete & {*rule.others}:
            complete.add(rule.others[0])
    return complete


@pytest.mark.parametrize(("command", "rule", "option", "other"), PAIRS)
def test_an_option_needs_and_excludes_what_the_table_says(
    command: str,
    rule: Needs | Excludes,
    option: str,
    other: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    flag, other_flag = shown(command, option), shown(command, other)
    if isinstance(rule, Excludes):
        result = call(*typed(command, *with_needs(command, option, other)))
        subject, _, objects = result.output.partition(" exclude")
        assert (flag in subject.split(), other_flag in objects) == (True, True), result.output
    else:
        result = call(*typed(command, option))
        assert f"{command}: {flag} requires " in result.output
        assert other_flag in result.output.partition(" requires ")[2]
        satisfied = call(*typed(command, *with_needs(command, option, other)))
        assert " requires " not in satisfied.output
    assert result.exit_code == 2
