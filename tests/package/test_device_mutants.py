"""Device mutants are caught: each is made in a copy of the project, where its test fails."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import cpu_build
import pytest
from device_mutants import MUTANTS, Mutant
from emulated import MISSING, real
from sandbox import Result, Sandbox

ROOT = Path(__file__).parents[2]
COPIED = ("xpcap", "tests", "tools", "pyproject.toml")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Runs of pytest; skips, with the reason, where the tests of a copy cannot run."""
    if not real.is_installed():
        pytest.skip(MISSING)
    try:
        cpu_build.compiler()
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("mutants").resolve() / "base"
    base.mkdir()
    for path in (ROOT / name for name in COPIED):
        if path.is_dir():
            shutil.copytree(path, base / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, base)
    return base


@pytest.fixture(scope="module")
def nodes() -> dict[str, str]:
    """Pytest's node id, with the file, of the test of each mutant."""
    defined: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.FunctionDef):
                file = str(path.relative_to(ROOT / "tests"))
                defined.setdefault(statement.name, []).append(file)
    found = {}
    for test in {mutant.test for mutant in MUTANTS}:
        file, _, name = test.rpartition("::")
        files = [path for path in defined.get(name.partition("[")[0], []) if path.endswith(file)]
        assert len(files) == 1, f"{test} is defined in {files or 'no file'}, expected one file"
        found[test] = f"{files[0]}::{name}"
    return found


@pytest.mark.slow
def test_device_mutants_are_many_and_each_changes_one_match(nodes: dict[str, str]) -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 70
    assert len(nodes) > 20
    for mutant in MUTANTS:
        mutant.mutated(ROOT)


@pytest.mark.nightly
def test_copy_without_a_device_mutant_passes(
    sandbox: Sandbox, base: Path, nodes: dict[str, str]
) -> None:
    """It leaves compiled files, which the copies use."""
    results = sandbox.run(base, sorted(nodes.values()))
    failed = [result for result in results if result.outcome != "passed"]
    assert results == [Result("passed", "")] * len(nodes), failed


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_device_mutant_is_caught(
    mutant: Mutant, sandbox: Sandbox, base: Path, nodes: dict[str, str]
) -> None:
    root = base.parent / mutant.name
    shutil.copytree(base, root, ignore=shutil.ignore_patterns("temporary"))
    mutant.apply(root)
    result = sandbox.run(root, [nodes[mutant.test]])[0]
    shutil.rmtree(root)
    assert result.outcome == "failed", f"expected {mutant.test} to fail, got: {result}"
