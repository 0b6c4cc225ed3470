"""What a student's code may try, as the `child.py` of a confined process.

``child.py FACTS`` gives up what `hardening` asks for, tries each attack, and writes to a descriptor
what came of it: a JSON object of the names of attacks that worked, and what they got.
"""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "CONFINEMENT" in os.environ:
    sys.path.insert(0, str(Path(__file__).parent))
    import hardening

    hardening.harden()

import numpy as np

MB = 2**20
FACTS: dict[str, Any] = json.loads(sys.argv[1])
GRADER: int = FACTS["grader"]
OUTSIDE = Path(FACTS["outside"])  # of the grader's: classmate.py, wheel.whl, mark.json
libc = ctypes.CDLL(None, use_errno=True)


def call(function: Any, *arguments: Any) -> int:
    result = int(function(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def at(folder: str | Path, name: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor by way of one of the folder, as no audit hook sees it."""
    place = os.open(folder, os.O_RDONLY)
    try:
        return os.open(name, flags, 0o600, dir_fd=place)
    finally:
        os.close(place)


def spawn(*command: str) -> int:
    """A process in a session of its own, by the function below subprocess."""
    import _posixsubprocess

    told, tells = os.pipe()
    words = [word.encode() for word in command]
    fixed: list[Any] = [words, words[:1], True, (tells,), None, [b"PATH=/bin"]]
    fixed += [-1, -1, -1, -1, -1, -1, told, tells, True, True, -1, None, None, None, -1, None, True]
    return int(_posixsubprocess.fork_exec(*fixed))


def spawn_by_multiprocessing() -> int:
    from multiprocessing import util

    return util.spawnv_passfds(b"/bin/true", [b"/bin/true"], [])  # type: ignore[attr-defined]


def fork(how: Callable[[], int]) -> int:
    number = how()
    if number == 0:
        os.setsid()
        os._exit(0)
    return number


def read_memory_of_the_grader() -> bytes:
    memory = at(f"/proc/{GRADER}", "mem", os.O_RDWR)
    first = Path(f"/proc/{GRADER}/maps").read_text().split("-")[0]
    return os.pread(memory, 8, int(first, 16))


def peek(number: int) -> int:
    """process_vm_readv of the grader."""
    here = ctypes.create_string_buffer(8)
    first = int(Path(f"/proc/{GRADER}/maps").read_text().split("-")[0], 16)
    vectors = [(ctypes.c_size_t * 2)(place, 8) for place in (ctypes.addressof(here), first)]
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    return call(libc.syscall, number, GRADER, vectors[0], one, vectors[1], one, none)


def send(kind: int) -> Any:
    with socket.socket(socket.AF_INET, kind) as sender:
        if kind == socket.SOCK_DGRAM:
            return sender.sendmsg([b"secret"], [], 0, ("127.0.0.1", FACTS["port"]))
        return sender.connect(("127.0.0.1", FACTS["port"]))


def signal_by_descriptor() -> None:
    signal.pidfd_send_signal(os.pidfd_open(GRADER), 0)


def own_a_pipe_for_the_grader() -> int:
    told, _ = os.pipe()
    return fcntl.fcntl(told, fcntl.F_SETOWN, GRADER)


def import_the_reference() -> list[str]:
    sys.path.append(FACTS["checkout"])
    from xpcap.exercise.reference import rnn_layers

    return dir(rnn_layers)


def import_another_package() -> str:
    """One that is installed beside NumPy."""
    sys.path.extend([FACTS["packages"], str(Path(np.__file__).parents[1])])
    import threadpoolctl

    return threadpoolctl.__version__


def read_another_package() -> str:
    """One of the Python below a virtual environment, or of the system's."""
    libraries = [Path(os.__file__).parent, *Path("/usr/lib").glob("python*")]
    for path in (path for one in libraries for path in one.glob("*-packages/*/__init__.py")):
        with contextlib.suppress(OSError):
            return path.read_text()
    raise FileNotFoundError


def hold(pieces: int) -> list[int]:
    """Memory in files that have no name."""
    held = [os.memfd_create(str(number)) for number in range(pieces)]
    for one in held:
        os.write(one, bytes(MB))
    return held


def in_threads(count: int, piece: int) -> int:
    """Threads that each hold memory, all at once."""
    go, held, threads = threading.Event(), [], []

    def take() -> None:
        with contextlib.suppress(MemoryError):
            held.append(bytes(piece))
        go.wait()

    try:
        for _ in range(count):
            threads.append(threading.Thread(target=take))
            threads[-1].start()
    finally:
        go.set()
        for thread in threads:
            if thread.ident:
                thread.join()
    if len(held) < count:
        raise MemoryError
    return count


def shared_memory() -> int:
    return call(libc.shmget, 0, ctypes.c_size_t(MB), 0o1600)


def raise_limits() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError as error:
        raise OSError from error


def edit(name: str) -> None:
    """Change something of the folder that the process is to read."""
    with (Path(__file__).parent / name).open("r+b") as file:
        file.write(b"#")


def reopen() -> list[int]:
    with contextlib.ExitStack() as stack:
        return [
            stack.enter_context(open(os.devnull)).fileno()  # noqa: PTH123
            for _ in range(FACTS["files"])
        ]


X86 = os.uname().machine == "x86_64"
CHECKOUT = Path(FACTS["checkout"])
REFERENCE = "xpcap/exercise/reference/rnn_layers.py"
READS = {
    "a classmate's file": lambda: (OUTSIDE / "classmate.py").read_text(),
    "a classmate's file by dir_fd": lambda: os.read(at(OUTSIDE, "classmate.py"), 99),
    "a classmate's file above": lambda: os.read(
        at(Path(__file__).parent, "../outside/classmate.py"), 99
    ),
    "sizes of files": lambda: (OUTSIDE / "classmate.py").stat().st_size,
    "names of files": lambda: list(OUTSIDE.iterdir()),
    "names in the root's home": lambda: list(Path("/root").iterdir()),
    "the reference": lambda: (CHECKOUT / REFERENCE).read_text(),
    "the reference by dir_fd": lambda: os.read(at(CHECKOUT, REFERENCE), 99),
    "the reference by import": import_the_reference,
    "the reference by a descriptor": lambda: os.read(
        at(Path(np.__file__).parents[1], os.path.relpath(CHECKOUT / REFERENCE, FACTS["packages"])),
        99,
    ),
    "another package": import_another_package,
    "another Python's package": read_another_package,
    "the wheel": lambda: zipfile.ZipFile(OUTSIDE / "wheel.whl").read("xpcap/reference.py"),
    "passwords": lambda: Path("/etc/shadow").read_text(),
    "the grader's memory": read_memory_of_the_grader,
    "the grader's memory by a call": lambda: peek(310 if X86 else 270),
    "a variable of the grader's": lambda: Path(os.environ.get("GRADERS", "/nowhere")).stat(),
    "the grader's environment": lambda: Path(f"/proc/{GRADER}/environ").read_bytes(),
    "the grader's files": lambda: list(Path(f"/proc/{GRADER}/fd").iterdir()),
}
WRITES = {
    "a mark by dir_fd": lambda: os.write(at(OUTSIDE, "mark.json", os.O_WRONLY | os.O_TRUNC), b"1"),
    "a new file by dir_fd": lambda: at(OUTSIDE, "new", os.O_WRONLY | os.O_CREAT),
    "a folder": lambda: (OUTSIDE / "folder").mkdir(),
    "a link": lambda: (OUTSIDE / "link").symlink_to("mark.json"),
    "a new name": lambda: (OUTSIDE / "old").rename(OUTSIDE / "other"),
    "an end": lambda: (OUTSIDE / "gone").unlink(),
    "rights of a file": lambda: (OUTSIDE / "mark.json").chmod(0o777),
    "times of a file": lambda: os.utime(OUTSIDE / "mark.json", (0, 0)),
    "its own folder": lambda: edit("hardening.py"),
    "its own submission": lambda: edit("files/rnn_layers.py"),
    "its own rights": lambda: Path(__file__).chmod(0o777),
}
SHARED = {
    f"a file in {place}": lambda place=place: Path(place, FACTS["name"]).write_text("left")
    for place in ("/tmp", "/var/tmp", "/dev/shm")
}
SENDS = {
    "UDP": lambda: send(socket.SOCK_DGRAM),
    "TCP": lambda: send(socket.SOCK_STREAM),
    "a local socket": lambda: socket.socket(socket.AF_UNIX),
    "a name looked up": lambda: socket.getaddrinfo("localhost", 80),
    "a pair of sockets": socket.socketpair,
}
SIGNALS = {
    "a signal to the grader": lambda: os.kill(GRADER, 0),
    "a signal to the parent": lambda: os.kill(os.getppid(), 0),
    "a signal to its group": lambda: os.kill(0, 0),
    "a signal by a descriptor": signal_by_descriptor,
    "a signal by a pipe": own_a_pipe_for_the_grader,
    "a limit of the grader": lambda: resource.prlimit(GRADER, resource.RLIMIT_CORE),
    "a new limit of the grader": lambda: resource.prlimit(
        GRADER, resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)
    ),
    "priority of the grader": lambda: os.setpriority(
        os.PRIO_PROCESS, GRADER, os.getpriority(os.PRIO_PROCESS, GRADER)
    ),
    "cores of the grader": lambda: os.sched_setaffinity(GRADER, os.sched_getaffinity(0)),
}
PROCESSES = {
    "fork": lambda: fork(os.fork),
    "vfork": lambda: fork(lambda: call(libc.syscall, 57 if X86 else 220, 17, 0, 0, 0, 0)),
    "fork_exec": lambda: spawn("/usr/bin/touch", str(OUTSIDE / "spawned")),
    "spawnv_passfds": spawn_by_multiprocessing,
    "posix_spawn": lambda: os.posix_spawn("/bin/true", ["/bin/true"], {}),
    "subprocess": lambda: subprocess.run(["/bin/true"], check=True),
}
HEAVY = {
    "an array": lambda: np.ones(1000 * MB, np.uint8),
    "a bytearray": lambda: bytearray(1000 * MB),
    "shared pages": lambda: mmap.mmap(-1, 1000 * MB),
    "memory in nameless files": lambda: hold(3),
    "memory in threads": lambda: in_threads(8, 100 * MB),
    "memory that outlives": shared_memory,
    "a large file": lambda: Path("large").write_bytes(bytes(11 * MB)),
    "many open files": reopen,
    "new limits": raise_limits,
    "another program": lambda: os.execv("/bin/true", ["/bin/true"]),
    "namespaces": lambda: call(libc.unshare, 0x10000000),
    "others' opens held up": lambda: call(libc.fanotify_init, 4, 0),
    "a ring of calls": lambda: call(libc.syscall, 425, 8, ctypes.create_string_buffer(200)),
    "more threads": lambda: in_threads(40, 1),
}


def honest() -> None:
    """What an exercise may do: compute, in threads too, and write a few files of its own."""
    np.linalg.solve(np.eye(200) + 1, np.ones((200, 200))) @ np.ones((200, 200))
    in_threads(2, 10)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"text")
    Path("notes").write_text("text")
    assert Path("notes").read_text() == "text"
    assert Path.cwd().samefile(os.environ["HOME"])
    assert np.random.default_rng().random() < 1
    Path("notes").unlink()


GENTLE = {**READS, **WRITES, **SHARED, **SENDS, **SIGNALS, **PROCESSES}


def main() -> None:
    attacks = {**GENTLE, **HEAVY} if "hardening" in sys.modules else GENTLE
    found: dict[str, str] = {}
    if "hardening" in sys.modules:
        honest()
    for name, attack in attacks.items():
        # no other error is a refusal: an attack that is wrong itself ends the process
        with contextlib.suppress(OSError, MemoryError, ImportError, RuntimeError):
            found[name] = repr(attack())[:80]
    os.write(FACTS["answers"], json.dumps({"tried": list(attacks), "worked": found}).encode())


if __name__ == "__main__":
    main()
