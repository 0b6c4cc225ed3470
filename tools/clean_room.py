"""Build sdist and wheel, install the wheel into a new environment, and use it without the checkout.

python tools/clean_room.py [FOLDER]    installs dependencies from the package index, and copies sdist
                                       and wheel to FOLDER if they work
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SMALL = ("--hidden", "16", "--wordvec", "8", "--epochs", "1", "--score-epochs", "0")
DRAW = """
import xpcap
print(xpcap.__file__)
xpcap.write_dataset("few.h5", xpcap.generate(0, train=60, val=14))
"""


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the unpacked sdist."""
    hatch = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t"]
    run([*hatch, "sdist"], ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    run([*hatch, "wheel"], unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def run(command: list[str], folder: Path) -> str:
    """Output of a command, run without this process's settings of Python and xpcap."""
    hidden = ("PYTHON", "XPCAP_", "VIRTUAL_ENV")
    environment = {key: x for key, x in os.environ.items() if not key.startswith(hidden)}
    # UTF-8, since Windows uses another encoding for output to a pipe
    result = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode:
        raise RuntimeError(
            f"{command} ended with {result.returncode}\n{result.stdout}{result.stderr}"
        )
    return result.stdout


class Room:
    """An environment with the wheel and its declared dependencies, and an empty working folder.

    Parameters
    ----------
    folder : folder in which to create it
    wheel : wheel to install
    from_index : True: pip installs the dependencies from the package index. False: they are linked
        from this environment
    """

    def __init__(self, folder: Path, wheel: Path, *, from_index: bool) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "room", symlinks=os.name == "posix", with_pip=False)
        self.programs = folder / "room" / ("bin" if os.name == "posix" else "Scripts")
        python = str(self.programs / "python")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
        options = [] if from_index else ["--no-deps", "--no-index"]
        run([*pip, "--disable-pip-version-check", *options, str(wheel)], self.work)
        if not from_index:
            where = "import sysconfig; print(sysconfig.get_path('purelib'))"
            link_dependencies(Path(self("python", "-c", where).strip()))

    def __call__(self, program: str, *arguments: str) -> str:
        """Output of a program of the environment, run in the working folder."""
        return run([str(self.programs / program), *arguments], self.work)


def link_dependencies(site: Path) -> None:
    """Link the dependencies of the xpcap in `site`, without extras, from this environment."""
    pending, linked = [*metadata.distributions(name="xpcap", path=[str(site)])], {"xpcap"}
    while pending:
        for requirement in map(Requirement, pending.pop().requires or ()):
            marker, name = requirement.marker, canonicalize_name(requirement.name)
            if name in linked or (marker is not None and not marker.evaluate({"extra": ""})):
                continue
            linked.add(name)
            pending.append(installed := metadata.distribution(name))
            for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
                if not (link := site / top).exists():
                    link.symlink_to(Path(str(installed.locate_file(top))).resolve())


def use(room: Room) -> Iterator[tuple[str, str]]:
    """Use the package; yields a name and the output for each use."""
    yield "version", room("xpcap", "--version")
    yield "module", room("python", "-m", "xpcap", "--help")
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    example = page.split("```python\n", 1)[1].split("```")[0]
    yield "example", room("python", "-c", f"{DRAW}\n{example}")
    yield "train", room("xpcap", "train", "few.h5", "--out", "run", *SMALL)
    yield "caption", room("xpcap", "caption", "run", "--html", "captions.html")
    yield "verify", room("xpcap", "verify")


def main() -> None:
    """Build, install from the index, use, print outputs, and copy the files to the given folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        sdist, wheel = build(folder)
        print(sdist.name, wheel.name)
        room = Room(folder, wheel, from_index=True)
        for name, output in use(room):
            print(f"{name}: {output.strip().splitlines()[-1]}", flush=True)
        for target in sys.argv[1:2]:
            Path(target).mkdir(exist_ok=True)
            for built in (sdist, wheel):
                shutil.copy(built, target)


if __name__ == "__main__":
    main()
