"""Locks that a forked process finds free."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "xpcap"


def test_a_lock_that_outlives_a_call_is_one_that_a_forked_process_finds_free() -> None:
    """threading's own are made in threads.py alone, and by functions for themselves."""

    def makers(path: Path) -> list[str]:
        tree = ast.parse(path.read_text())
        local = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for line in ast.walk(function)
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
            for node in ast.walk(line.value)
        }
        names = ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore")
        return [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "threading"
            if node.attr in names and id(node) not in local
        ]

    makers_of = {
        path.name: makers(path) for path in PACKAGE.rglob("*.py") if path.name != "threads.py"
    }
    assert [line for lines in makers_of.values() for line in lines] == []
