"""What is built and published: the wheel alone, away from the checkout, does what the docs say, and
needs no more than it declares.
"""

import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import clean_room
import pytest

import xpcap

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_the_wheel_of_the_sdist_holds_the_package_and_works_with_what_it_declares(
    tmp_path: Path,
) -> None:
    sdist, wheel = clean_room.build(tmp_path)
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"CITATION.cff", "LICENSE", "README.md", "docs/reference/python.md", "cli.py"} <= inside
    folders = {name.split("/")[0] for name in inside if "/" in name}
    assert folders == {".ci", ".github", "benchmarks", "docs", "tests", "tools", "xpcap"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = archive.read(f"xpcap-{xpcap.__version__}.dist-info/METADATA").decode()
    about = Parser().parsestr(about)
    files = {path for path in (ROOT / "xpcap").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {
        path.relative_to(ROOT).as_posix() for path in files if path.parent.name != "__pycache__"
    }
    assert "xpcap/py.typed" in names
    assert (about["Version"], about["License-Expression"]) == (xpcap.__version__, "MIT")
    assert "Private :: Do Not Upload" not in (about.get_all("Classifier") or [])

    room = clean_room.Room(tmp_path, wheel, from_index=False)
    found = dict(clean_room.use(room))
    assert found["version"] == f"xpcap, version {xpcap.__version__}\n"
    commands = re.findall(r"^  ([a-z]+)  ", found["module"], re.MULTILINE)
    assert {"train", "caption", "evaluate", "prepare", "verify"} <= set(commands)
    file, *_, captions = found["example"].strip().splitlines()
    site = Path(file).parents[1]
    assert site.is_relative_to(tmp_path / "room")
    assert not (site / "pytest").exists()
    assert captions.startswith("['")
    assert "BLEU-1..4" in found["train"]
    assert "wrote run" in found["train"]
    assert (room.work / "captions.html").stat().st_size > 1000
    assert (room.work / "run" / "README.md").read_text(encoding="utf-8").startswith("---\n")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_release_only_says_how_to_upload() -> None:
    dry = subprocess.run(
        ["make", "-n", "-o", ".venv/release", "release"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = dry.stdout.splitlines()
    assert any("twine check --strict dist/*" in line for line in lines)
    for line in lines:
        assert line.strip().startswith("echo ") or not re.search("upload|git (tag|push)", line)


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "xpcap/__init__.py"
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert xpcap.__version__ not in citation.replace("cff-version: 1.2.0", "")
