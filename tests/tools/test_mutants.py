"""The table of frozen mutants fits today's package and tests; `make mutants` runs them all."""

import ast
import json
from collections import Counter
from pathlib import Path

import mutants
import patterns
import pytest
from mutant_sites import KINDS, Package, drawn, mutant

ROWS = mutants.frozen()
TESTS = mutants.Tests(mutants.ROOT)


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(mutants.ROOT / "xpcap")


def test_mutants_are_many_of_every_kind_and_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 200
    kinds = Counter(row.kind for row in ROWS)
    assert set(kinds) == set(KINDS)
    assert all(kinds[kind] >= 0.8 * number for kind, number in KINDS.items())
    assert all(len(row.breaks.split()) > 3 for row in ROWS)
    assert len({row.breaks for row in ROWS}) == len(ROWS)


def test_mutants_match_once_and_change_the_code(package: Package) -> None:
    found = {row.name: len(package.matches(row.function, row.pattern)) for row in ROWS}
    assert {name: n for name, n in found.items() if n != 1} == {}
    same = [row.name for row in ROWS if unparsed(row.pattern) == unparsed(row.instead)]
    assert same == []


def unparsed(code: str) -> str:
    return "\n".join(ast.unparse(statement) for statement in patterns.parsed(code))


def test_tests_of_mutants_exist() -> None:
    assert [(row.name, row.test) for row in ROWS if TESTS.node(row.test, row.room) is None] == []


def test_numbers_in_the_tables_head_are_those_of_its_rows() -> None:
    table = json.loads(mutants.TABLE.read_text(encoding="utf-8"))
    head = table["made from"]
    assert head["commit"] == "9c79368"
    assert head["not caught"] == len(table["not caught"]) + head["gone since"]
    assert head["tried"] == sum(
        head[verdict] for verdict in ("caught", "not caught", "timed out", "crashed")
    )


CODE = '''
def step(x, n):
    """A docstring with x + n."""
    if n < 1:
        raise ValueError(f"{n + 1} is wrong")
    y = x + n * 2
    return y


def other(x, n):
    return x.copy() if x + n else None
'''


def package_of(folder: Path, name: str) -> Package:
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(CODE)
    return Package(folder)


def test_sites_are_patterns_with_holes_and_leave_messages_alone(tmp_path: Path) -> None:
    package = package_of(tmp_path / "ops", "ops.py")
    made = [one for site in package.sites if (one := mutant(package, site))]

    def of(kind: str) -> set[tuple[str, str, str]]:
        return {(one.function, one.pattern, one.instead) for one in made if one.kind == kind}

    assert of("arithmetic") >= {
        ("step", "$a + $b * 2", "$a - $b * 2"),
        ("step", "$a * 2", "$a / 2"),
        ("other", "$a + $b", "$a - $b"),
    }
    assert of("error paths") == {
        ("step", "$a < 1", "$a <= 1"),
        ("step", "$a < 1", "False"),
        ("step", "$a < 1", "$a < 2"),
    }
    assert of("transfers") == {("other", "$a.copy()", "$a")}
    assert not any("{" in one.pattern or one.kind == "grading" for one in made)
    grading = package_of(tmp_path / "exercise", "exercise/check.py")
    assert {one.kind for one in drawn(grading, "grading", 0)} == {"grading"}
    assert list(drawn(grading, "arithmetic", 0)) == []


def test_a_seed_draws_the_same_mutants_again(tmp_path: Path) -> None:
    package = package_of(tmp_path, "ops/step.py")

    def draw(seed: int) -> list[str]:
        return [one.instead for one in drawn(package, "arithmetic", seed)]

    assert draw(0) == draw(0)
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1
    assert sorted(Counter(one.function for one in drawn(package, "arithmetic", 0)).values()) == [
        1,
        2,
    ]


def test_where_a_mutant_is_drawn_is_a_folder_a_file_or_a_function(tmp_path: Path) -> None:
    package = package_of(tmp_path, "ops/step.py")
    for names, functions in {
        ("xpcap/ops",): {"step", "other"},
        ("ops/step.py",): {"step", "other"},
        ("other",): {"other"},
        ("op", "st"): set(),
    }.items():
        near = mutants.near(list(names))
        assert {one.function for one in drawn(package, "arithmetic", 0, near)} == functions
