"""The measures of tools/ count toy code exactly, and find what they need in xpcap."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import passthru
import pytest
import size
import walk

ROOT = Path(__file__).parents[2]


def module(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def toy(tmp_path: Path) -> ModuleType:
    """A module of a package, with another one as its `other`."""
    (tmp_path / "toy").mkdir()
    main = module(
        tmp_path / "toy" / "main.py",
        "def double(x):\n"
        "    return other.add(x, x)\n"
        "def start(x):\n"
        "    double(x)\n"
        "    return double(double(x))\n"
        "def fail(x):\n"
        "    return other.divide(x, 0)\n",
    )
    main.other = module(  # type: ignore[attr-defined]
        tmp_path / "toy" / "other.py",
        "def add(a, b):\n"
        "    return check(a) + b\n"
        "def check(a):\n"
        "    return abs(a)\n"
        "def divide(a, b):\n"
        "    return a / check(b)\n",
    )
    return main


def test_a_walk_counts_functions_files_changes_of_file_and_depth(
    toy: ModuleType, tmp_path: Path
) -> None:
    """start enters main.py, then each of three doubles leaves it, and the next one comes back."""
    found, result = walk.measure(tmp_path / "toy", toy.start, 1)
    assert result == 4
    assert found == walk.Walk(functions=4, files=2, changes=6, depth=4)


def test_a_walk_leaves_out_other_folders_and_ends_with_an_exception(
    toy: ModuleType, tmp_path: Path
) -> None:
    assert walk.measure(tmp_path / "to", toy.start, 1)[0] == walk.Walk(0, 0, 0, 0)
    with pytest.raises(ZeroDivisionError):
        walk.measure(tmp_path / "toy", toy.fail, 1)
    assert sys.getprofile() is None
    assert walk.measure(tmp_path / "toy", toy.other.check, -1) == (walk.Walk(1, 1, 1, 1), 1)


def test_parameters_that_are_only_handed_on_are_counted(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "toy.py").write_text(
        "class Toy:\n"
        "    def run(self, x, y, *, out=None):\n"  # x and out are handed on, y is also read
        "        return f(x, y + 1, out=out)\n"
        "def unread(x):\n"  # handed on to nobody
        "    return 0\n"
        "def both(x, n):\n"  # x is handed on, and read
        "    return f(x) if x else g(n)\n"
        "def spread(xs):\n"  # unpacked, so looked into
        "    return f(*xs)\n"
        "def stub(x):\n"
        '    """Of a protocol."""\n'
        "    ...\n"
    )
    (tmp_path / "top.py").write_text("async def g(name): return await f(name)\n")
    found = passthru.count(tmp_path)
    assert found.rows() == [
        ("total", 8, 4, 1 / 2),
        ("rooms", 7, 3, 3 / 7),
        ("top", 1, 1, 1.0),
    ]
    assert found.names == {"x": 1, "out": 1, "n": 1, "name": 1}


def test_lines_are_counted_by_room_and_language(tmp_path: Path) -> None:
    files = {
        "xpcap/ops/add.py": "a = 1\n\nb = 2\n",
        "xpcap/ops/add.cu": "// add\n",
        "xpcap/errors.py": "",
        "xpcap/ops/notes.txt": "left out\n",
        "tests/ops/test_add.py": "a = 1\n",
        "tools/deep/x.py": "a = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert size.count(tmp_path) == {
        "xpcap": {"ops": {"Python": 3, "CUDA": 1}, "errors": {"Python": 0}},
        "tests": {"ops": {"Python": 1}},
        "benchmarks": {},
        "tools": {"tools": {"Python": 1}},
    }


def run(tool: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("tool", ["walk.py", "passthru.py", "size.py"])
def test_a_measure_of_this_checkout_is_a_table_or_json(tool: str) -> None:
    for arguments in ([], ["--json"])[tool == "walk.py" :]:  # which trains
        done = run(tool, ROOT, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    if tool == "walk.py":
        assert list(found) == [
            "lstm_forward",
            "lstm_backward",
            "training step",
            "caption",
            "grading",
            "train own.h5",
            "caption photo",
        ]
        assert all(walked["functions"] > 10 for walked in found.values())
    elif tool == "passthru.py":
        assert found["rooms"]["total"]["parameters"] > 1000
    else:
        assert {"layers", "ops"} < set(found["xpcap"])


@pytest.mark.parametrize("tool", ["walk.py", "passthru.py", "size.py"])
def test_a_measure_of_another_folder_is_refused(tool: str, tmp_path: Path) -> None:
    done = run(tool, tmp_path)
    assert done.returncode == 2
    assert "has no folder xpcap, expected a checkout" in done.stderr
