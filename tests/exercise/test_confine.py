"""What a student's process cannot do, by each way to confine it."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap.errors import OptionError
from xpcap.exercise.grading import confine, hardening
from xpcap.exercise.grading.confine import MB, Confined, Confinement, Limits, confinement

ROOT = Path(__file__).parents[2]
ATTACKS = ROOT / "tests" / "helpers" / "attacks.py"
LEFT = f"left-by-{os.getpid()}"  # a name that a test beside this one does not use
LIMITS = Limits(memory=0.4, seconds=60, disk=32 * MB, file=10 * MB, files=64, processes=16)

# What may work all the same. Without Landlock another user reads what any user may read: this
# checkout too, which `confinement` would refuse to mark with. Landlock lets sizes be asked for.
READABLE = {
    *("the reference", "the reference by dir_fd", "the reference by import"),
    *("the reference by a descriptor", "another package", "another Python's package"),
}
FOR_ROOT = {  # the memory where Yama guards it
    *("passwords", "names in the root's home", "the grader's memory"),
    "the grader's memory by a call",
}
SHARED = {f"a file in {place}" for place in ("/tmp", "/var/tmp", "/dev/shm")}
WORKS: dict[str, set[str]] = {
    "bubblewrap": set(),
    "bubblewrap without Landlock": {"names in the root's home"},  # of folders that lead to Python
    "user": set(),
    "user without Landlock": READABLE | SHARED | {"a name looked up"},
    "none": {"sizes of files"},
}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux confines")


def confined_by(way: str) -> Confinement:
    """A way of `WORKS`; a skip where this machine does not have it."""
    rung, _, without = way.partition(" ")
    try:
        found = confinement(rung=rung, landlock=not without)
    except OptionError as error:
        pytest.skip(error.cause)
    if not {"seccomp", *(["landlock"] if not without else [])} <= set(found.steps):
        pytest.skip(f"this kernel lacks filters: {found.says}")
    return found


@pytest.fixture(params=WORKS)
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Confinement:
    if "without" in request.param:
        hide(monkeypatch)
    return confined_by(request.param)


def hide(monkeypatch: pytest.MonkeyPatch, *packages: Path) -> None:
    """Have a process's Python without packages, in place of xpcap."""
    python = confine._python()._replace(hidden=[*packages])
    monkeypatch.setattr(confine, "_python", lambda: python)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A process's folder, with the attacks in it, and beside it a folder of the grader's."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "rnn_layers.py").write_text("h = 1\n")
    shutil.copy(hardening.__file__, folder / "hardening.py")
    shutil.copy(ATTACKS, folder / "child.py")
    outside.mkdir(mode=0o700)
    for name in ("classmate.py", "mark.json", "old", "gone"):
        (outside / name).write_text("100")
    with zipfile.ZipFile(outside / "wheel.whl", "w") as wheel:
        wheel.writestr("xpcap/reference.py", "solution")
    return folder


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        path.name: (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def listener() -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """A port of this machine, for datagrams and connections."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0)) as connections,
    ):
        port = connections.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        datagrams.setblocking(False)
        connections.setblocking(False)
        yield port, datagrams, connections


def facts(folder: Path, port: int, answers: int) -> str:
    return json.dumps(
        {
            "grader": os.getpid(),
            "outside": str(folder.parent / "outside"),
            "checkout": str(ROOT),
            "packages": str(Path(np.__file__).resolve().parents[1]),
            "port": port,
            "answers": answers,
            "name": LEFT,
            "files": LIMITS.files,
        }
    )


HARDENED = """
import os, signal, sys
sys.path.insert(0, os.path.dirname(__file__))
import hardening
hardening.harden()
MB = 2**20
"""


def start(
    held: Confinement, folder: Path, code: str, limits: Limits = LIMITS, **passed: Any
) -> contextlib.AbstractContextManager[Confined]:
    """A process that gives up what it has to, and runs a code."""
    (folder / "child.py").write_text(HARDENED + code)
    return held.start(folder, [], limits, stderr=subprocess.DEVNULL, **passed)


def test_attacks_work_where_nothing_confines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what fails elsewhere fails for the confinement."""
    monkeypatch.setenv("GRADERS", "/")
    told, tells = os.pipe()
    with listener() as (port, _, _), os.fdopen(told) as answers:
        child = [sys.executable, folder / "child.py", facts(folder, port, tells)]
        subprocess.run(child, pass_fds=[tells], check=True, start_new_session=True)
        os.close(tells)
        answer = json.loads(answers.read())
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        Path(place, LEFT).unlink()
    refused = set(answer["tried"]) - set(answer["worked"])
    assert refused <= (set() if os.geteuid() == 0 else FOR_ROOT), refused


def test_nothing_is_read_written_sent_signalled_or_left(
    held: Confinement, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADERS", "/")
    before = snapshot(folder.parent / "outside")
    core = resource.getrlimit(resource.RLIMIT_CORE)
    errors, (told, tells) = folder.parent / "errors", os.pipe()
    with listener() as (port, datagrams, connections), errors.open("wb") as stderr:
        arguments = [facts(folder, port, tells)]
        with held.start(folder, arguments, LIMITS, pass_fds=[tells], stderr=stderr) as process:
            os.close(tells)
            with os.fdopen(told) as answers:
                text = answers.read()
            assert process.wait(60) == 0, errors.read_text()
        way = held.rung + " without Landlock" * ("landlock" not in held.steps)
        assert set(worked := json.loads(text)["worked"]) <= WORKS[way], worked
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)
        with pytest.raises(BlockingIOError):
            connections.accept()
    assert snapshot(folder.parent / "outside") == before
    assert resource.getrlimit(resource.RLIMIT_CORE) == core
    assert (folder / "files" / "rnn_layers.py").read_text() == "h = 1\n"
    assert not process.scratch.parent.exists()
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        assert not Path(place, LEFT).exists()


FILLS = {
    "many files": "for i in range(12): open(f'f{i}', 'wb').write(bytes(MB))",
    "empty files": "for i in range(2000): open(f'f{i}', 'wb').close()",
    "files without a name": """
keep = []
for i in range(12):
    keep.append(open('f', 'wb'))
    os.remove('f')
    keep[-1].write(bytes(MB))
""",
    "folders in folders": "while True: os.mkdir('d'); os.chdir('d')",
}


@pytest.mark.parametrize(
    "fill",
    [
        name if name == "many files" else pytest.param(name, marks=pytest.mark.slow)
        for name in FILLS
    ],
)
def test_a_disk_is_not_filled(held: Confinement, fill: str, folder: Path) -> None:
    """The process is told that its disk is full, or the grader that it wrote too much."""
    code = f"""
try:
    exec({FILLS[fill]!r}, globals())
except OSError:
    os._exit(3)
signal.pause()
"""
    with start(held, folder, code, LIMITS._replace(disk=4 * MB)) as process:
        reason = status = None
        while reason is None and status is None:
            reason = process.check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.01)
        assert reason == "wrote more than 4 MB" or status == 3
    assert not process.scratch.parent.exists()


def test_a_process_that_never_ends_is_killed(held: Confinement, folder: Path) -> None:
    told, tells = os.pipe()
    code = (
        f"import threading\nthreading.Thread(target=signal.pause).start()\nos.write({tells}, b'.')"
    )
    with (
        os.fdopen(told, "rb", buffering=0) as answers,
        start(held, folder, code, pass_fds=[tells]) as process,
    ):
        os.close(tells)
        assert answers.read(1) == b"."
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert answers.read() == b""  # the last end of the pipe is closed: nobody lives


def test_honest_code_has_what_it_needs(held: Confinement, folder: Path) -> None:
    linked = [name for name in ("bz2", "lzma", "sqlite3", "ssl") if find_spec(f"_{name}")]
    code = f"""
import {", ".join(["sysconfig", "tempfile", "threading", "time", *linked])}
import numpy as np
version = sysconfig.get_python_version()
assert f"the standard library of Python {{version}} and NumPy {{np.__version__}}" == PACKAGES
for name, mode in (("/dev/null", "r+b"), ("/dev/urandom", "rb"), ("results.txt", "w+b")):
    open(name, mode, buffering=0).read(8)
with tempfile.TemporaryDirectory() as inner:
    np.save(inner + "/a.npy", np.ones((60, 60)) @ np.ones((60, 60)))
    assert np.load(inner + "/a.npy").sum() == 60**3
thread = threading.Thread(target=time.localtime)
thread.start()
thread.join()
os._exit(5)
"""
    with start(held, folder, f"PACKAGES = {confine.PACKAGES!r}\n{code}") as process:
        assert process.wait(60) == 5


def test_a_signal_is_told(held: Confinement, folder: Path) -> None:
    with start(held, folder, "os.abort()") as process:
        assert process.wait(60) in {-signal.SIGABRT, 128 + signal.SIGABRT}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_each_process_is_a_user_of_its_own_that_alone_reads_its_folder(folder: Path) -> None:
    way = confined_by("user")
    other = shutil.copytree(folder, folder.parent / "other")
    code = "signal.pause()"
    with start(way, folder, code), start(way, other, code):
        users = {folder.stat().st_gid, other.stat().st_gid}
        assert len(users) == 2
        assert users <= set(confine.USERS)
        for path in (folder, *folder.rglob("*")):
            found = path.stat()
            assert (found.st_uid, found.st_gid) == (0, folder.stat().st_gid)
            assert found.st_mode & 0o027 == 0


@pytest.mark.slow
def test_a_process_ends_with_its_grader(held: Confinement, folder: Path) -> None:
    told, tells = os.pipe()
    (folder / "child.py").write_text(f"{HARDENED}os.write({tells}, b'.')\nsignal.pause()")
    grader = f"""
import pathlib, signal
from xpcap.exercise.grading import confine
from xpcap.exercise.grading.confine import Confinement, Limits
python = confine._python()._replace(hidden=[])
confine._python = lambda: python
with {held}.start(pathlib.Path({str(folder)!r}), [], Limits(), pass_fds=[{tells}]):
    signal.pause()
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(folder.parent),
    }
    command = [sys.executable, "-c", grader]
    with (
        subprocess.Popen(command, pass_fds=[tells], env=environment) as process,
        os.fdopen(told, "rb", buffering=0) as answers,
    ):
        os.close(tells)
        assert answers.read(1) == b"."
        process.kill()
        assert answers.read() == b""  # the last end of the pipe is closed: nobody lives


def test_a_report_says_what_is_not_held_and_a_teacher_may_refuse_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert confined_by("none").says.startswith("not confined: ")
    monkeypatch.setattr(confine, "RUNGS", ("none",))
    with refuses(
        OptionError, function="confinement", thing="require_confinement", cause="bubblewrap"
    ):
        confinement(require=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("home", [0o755, 0o700])
def test_another_user_who_could_read_the_solutions_confines_nothing(
    home: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a closed home too, out of which a descriptor of the scratch folder leads."""
    confined_by("user")
    with tempfile.TemporaryDirectory() as name:
        solutions, temporary = Path(name, "clone", "xpcap"), Path(name, "clone", "tmp")
        for folder in (solutions.parent, temporary, solutions):
            folder.mkdir()
        (solutions / "__init__.py").touch()
        Path(name).chmod(home)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        hide(monkeypatch, solutions)
        refused = confine._try.__wrapped__("user", False)
        assert refused == f"without Landlock it reads the solutions; chmod -R o-rwx {solutions}"
        solutions.chmod(0o700)
        assert isinstance(confine._try.__wrapped__("user", False), Confinement)


def test_every_xpcap_that_a_python_of_this_machine_has_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "lib" / "python3.11" / "site-packages", tmp_path / "checkout"]
    for place in places:
        (place / "xpcap").mkdir(parents=True)
        (place / "xpcap" / "__init__.py").touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.syspath_prepend(places[1])
    closed = set(confine._python.__wrapped__().hidden)
    assert {*(place / "xpcap" for place in places), ROOT / "xpcap"} <= closed


def test_what_an_earlier_process_put_out_of_memory_is_read_before_the_next() -> None:
    file = Path(os.__file__).with_name("turtle.py")
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(opened.fileno(), [bytearray(8)], 0, os.RWF_NOWAIT)
            pytest.skip("this file system keeps all pages")
        except BlockingIOError:
            pass
        except OSError as error:
            pytest.skip(f"this file system does not tell: {error}")
        confine.fill_page_cache()
        assert os.preadv(opened.fileno(), [bytearray(8)], 0, os.RWF_NOWAIT) == 8
