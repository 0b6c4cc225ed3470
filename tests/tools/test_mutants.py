"""Mutants: where they are, and that a seed draws the same ones again."""

from collections import Counter
from pathlib import Path

import mutants
from mutant_sites import Package, drawn, mutant

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


def test_mutants_are_drawn_from_files_and_folders(tmp_path: Path) -> None:
    package = package_of(tmp_path, "ops/step.py")
    for names, functions in {
        ("xpcap/ops/",): {"step", "other"},
        ("ops/step.py",): {"step", "other"},
        ("op", "st"): set(),
    }.items():
        within = mutants.within(list(names))
        assert {one.function for one in drawn(package, "arithmetic", 0, within)} == functions


def test_survivors_are_told_with_their_tests_and_rates_by_room(tmp_path: Path) -> None:
    log = mutants.Log(tmp_path / "log")
    (first, *rest) = drawn(package_of(tmp_path / "x", "ops/step.py"), "arithmetic", 0)
    log.write(first, "survived", "", ["test_a.py::test_a"])
    for verdict, one in zip(("caught", "crashed"), rest, strict=False):
        log.write(one, verdict, "test_b", [])
    again = mutants.Log(tmp_path / "log")
    assert again.next(iter([first, *rest])) is None
    told, reached, *counts = "\n".join(again.summary()).splitlines()
    assert told == f"survived: ops/step.py: {first.function}: {first.pattern}  ->  {first.instead}"
    assert reached.strip() == "reached by test_a.py::test_a"
    numbers = "3 planted, 1 caught, 1 survived, 1 crashed; 50% caught"
    assert counts == [f"ops: {numbers}", f"all: {numbers}"]
