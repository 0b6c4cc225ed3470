"""What options need and exclude: a line for each rule of the table, typed."""

from pathlib import Path

import pytest
from commands import failing

from xpcap.cli import main
from xpcap.cli.rules import RULES

BROKEN = """
prepare c.csv --out o.h5 --min-count 1 --vocabulary 9 | --min-count excludes --vocabulary
evaluate RUN --greedy --beam 2 --top-k 1 | --greedy excludes --beam and --top-k
evaluate RUN --beam 2 --temperature 1 --top-p 1 | --beam excludes --temperature and --top-p; a beam does not sample
evaluate RUN --diversity 1 --beam 2 | --diversity requires --groups; it makes 2 or more groups differ
evaluate RUN --groups 2 --length-penalty 1 | --length-penalty and --groups require --beam
caption RUN a.png --split val -n 1 --data d.h5 | --split and -n and --data exclude pictures; give one
caption RUN --txt | --txt requires pictures; it writes to files or folders
caption RUN --greedy --n-best 2 | --greedy excludes --n-best
export RUN --onnx a --web b | --onnx excludes --web
export RUN --with-encoder --web b | --with-encoder excludes --web; a page always has the encoder
export RUN --runtime a --onnx b | --runtime excludes --onnx; ONNX files do not contain a runtime
export RUN | RUN requires --onnx or --web
verify --against a --class b | --against excludes --class
verify --class a --only b --html c | --only and --html require --against
verify --expect rnn --seed 1 --seconds 1 --memory 1 | and --memory require --against or --class
verify --class a --json | --json excludes --class; it prints CSV
verify --against a --backend numpy --plain | --backend and --plain exclude --against; a submission is
"""


@pytest.mark.parametrize("row", BROKEN.strip().splitlines())
def test_options_that_do_not_go_together_are_refused(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line, words = row.split(" | ")
    failing(line.split(), words, status=2)


def test_the_rules_are_of_options_that_there_are() -> None:
    for command, rules in RULES.items():
        names = {param.name for param in main.commands[command].params} | {"n_best"}
        for rule in rules:
            assert names >= {*rule.options, *rule.others}, (command, rule)
