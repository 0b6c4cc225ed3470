"""What a process that runs a student's code gives up before that code, for good.

`confine.py` starts the process and says in an environment variable what to give up. A script of
this folder calls `harden` first. Standard library alone, since xpcap is not to be seen in there.
"""

import contextlib
import ctypes
import errno
import importlib.util
import json
import mmap
import os
import platform
import signal
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = "CONFINEMENT"  # the environment variable

# System calls that no exercise needs, each with its numbers on x86_64 and aarch64; 0 where it has
# none. Linux ends none of them for a good program.
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
REFUSED = (
    # connections
    "socket 41 198 socketpair 53 199 "
    # processes, threads apart; the C library falls back from clone3, whose flags lie in memory
    "fork 57 0 vfork 58 0 execve 59 221 execveat 322 281 "
    # other processes
    "ptrace 101 117 process_vm_readv 310 270 process_vm_writev 311 271 kcmp 312 272 "
    "pidfd_open 434 434 pidfd_send_signal 424 424 pidfd_getfd 438 438 process_madvise 440 440 "
    "process_mrelease 448 448 setpriority 141 140 ioprio_set 251 30 sched_setparam 142 118 "
    "sched_setscheduler 144 119 sched_setaffinity 203 122 sched_setattr 314 274 "
    # memory that no limit counts
    "memfd_create 319 279 memfd_secret 447 447 shmget 29 194 semget 64 190 msgget 68 186 "
    "mq_open 240 180 "
    # other views of files
    "mount 165 40 umount2 166 39 pivot_root 155 41 chroot 161 51 open_tree 428 428 "
    "move_mount 429 429 fsopen 430 430 fsconfig 431 431 fsmount 432 432 fspick 433 433 "
    "mount_setattr 442 442 open_tree_attr 467 467 unshare 272 97 setns 308 268 "
    "open_by_handle_at 304 265 "
    # attributes of files, which Landlock lets pass
    "chmod 90 0 fchmod 91 52 fchmodat 268 53 fchmodat2 452 452 chown 92 0 fchown 93 55 "
    "lchown 94 0 fchownat 260 54 setxattr 188 5 lsetxattr 189 6 fsetxattr 190 7 "
    "setxattrat 463 463 removexattr 197 14 lremovexattr 198 15 fremovexattr 199 16 "
    "removexattrat 466 466 file_setattr 469 469 utime 132 0 utimes 235 0 futimesat 261 0 "
    "utimensat 280 88 "
    # the kernel's workshops
    "add_key 248 217 request_key 249 218 keyctl 250 219 bpf 321 280 perf_event_open 298 241 "
    "io_uring_setup 425 425 io_uring_enter 426 426 io_uring_register 427 427 userfaultfd 323 282 "
    "fanotify_init 300 262 "
    # limits, its own and others'
    "setrlimit 160 164 prlimit64 302 261"
)
# kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
TO_ITSELF = ((62, 129), (200, 130), (234, 131), (129, 138), (297, 240))
CLONE, CLONE3, FCNTL, SECCOMP = (56, 220), (435, 435), (72, 25), (317, 277)
CLONE_THREAD, OWNERS = 0x10000, (8, 15)  # F_SETOWN and F_SETOWN_EX send signals to others

LANDLOCK = (444, 445, 446)  # create a ruleset, add a rule, restrict; the same on all
# Rights of Landlock by the version that brings them, and those that a file can have
READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE, DEVICE = 1 << 2, 1 << 3, 1 << 1, 1 << 14, 1 << 15
RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: TRUNCATE, 5: DEVICE}
OF_FILES = READ_FILE | WRITE_FILE | TRUNCATE | DEVICE


def harden(trying: bool = False) -> list[str]:
    """Take the `STEPS` that the settings of `confine.py` name. Those that this system took.

    OSError : a step fails, unless `trying`; no student's code may run.
    """
    settings = json.loads(os.environ.pop(SETTINGS))
    _find_numpy(settings["numpy"])
    held = []
    for name in settings["steps"]:
        try:
            STEPS[name](settings)
            held.append(name)
        except (OSError, ImportError, AttributeError):  # a system without it
            if not trying:
                raise
    return held


def _find_numpy(folder: str) -> None:
    """Let NumPy be imported, and nothing that is installed beside it."""
    spec = importlib.util.spec_from_file_location("numpy", f"{folder}/__init__.py")
    finder = types.SimpleNamespace(find_spec=lambda name, *_: spec if name == "numpy" else None)
    sys.meta_path.append(finder)


def _use_numpy() -> None:
    numpy = importlib.import_module("numpy")  # noqa: TID251 - the grader's
    numpy.ones((9, 9)) @ numpy.ones((9, 9))  # MKL opens more at its first product


def _needs() -> tuple[int, list[str]]:
    """Bytes of address space of Python and NumPy, and the names by which the loader opens shared
    libraries for these and for all of the standard library.
    """
    _use_numpy()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    for path in (path for place in sys.path for path in Path(place).glob("*.so")):
        with contextlib.suppress(OSError):  # it needs one that is not installed
            ctypes.CDLL(str(path))
    names: list[str] = []
    library = ctypes.POINTER(ctypes.c_char_p * 2)  # its address, then its name

    @ctypes.CFUNCTYPE(ctypes.c_int, library, ctypes.c_size_t, ctypes.c_void_p)
    def note(found: Any, *_: Any) -> int:
        names.append(os.fsdecode(found.contents[1]))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(note, None)
    return pages * mmap.PAGESIZE, names


def _call(name: str, *arguments: Any) -> int:
    """The result of a function of Linux's C library; OSError where it is negative."""
    if not sys.platform.startswith("linux"):
        raise OSError("not Linux")
    result = int(ctypes.CDLL(None, use_errno=True)[name](*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _change_user(settings: dict[str, Any]) -> None:
    if (user := settings["user"]) is None:
        raise OSError("no other user to change to")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _end_with_parent(settings: dict[str, Any]) -> None:
    _call("prctl", 1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, which Landlock and seccomp ask for


def _close_files(settings: dict[str, Any]) -> None:
    """Leave the folders of the settings to be read, the scratch folder to be written, no more."""
    create, add, restrict = LANDLOCK
    version = _call("syscall", create, None, ctypes.c_size_t(0), 1)
    handled = sum(rights for since, rights in RIGHTS.items() if since <= version)
    # TCP from version 4, abstract sockets and signals from version 6
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", handled, 3, 3)
    ruleset = _call("syscall", create, attributes, ctypes.c_size_t(size), 0)
    rules = [
        *((path, READ_FILE | READ_DIR) for path in settings["read"]),
        *((path, READ_DIR) for path in sys.path),  # where imports look for names
        *((path, READ_FILE | WRITE_FILE) for path in settings["devices"]),
        (settings["scratch"], handled),
    ]
    for path, rights in rules:
        with contextlib.suppress(OSError):  # not there; without a rule it stays closed
            place = os.open(path, os.O_PATH)
            rights &= handled & (-1 if Path(path).is_dir() else OF_FILES)
            if rights:
                _call("syscall", add, ruleset, 1, struct.pack("=Qi", rights, place), 0)
            os.close(place)
    _call("syscall", restrict, ruleset, 0)
    os.close(ruleset)


def _limit(settings: dict[str, Any]) -> None:
    import resource

    limits = {
        "CORE": 0,
        "CPU": int(settings["seconds"]) + 2,
        "FSIZE": settings["file"],
        "NOFILE": settings["files"],
        "NPROC": settings["processes"],
        "AS": settings["memory"] if sys.platform == "linux" else None,
    }
    for name, most in limits.items():
        if most is not None:
            kind = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
    if limits["AS"] is None:
        raise OSError("no limit of memory on this system")


def _refuse_calls(settings: dict[str, Any]) -> None:
    machine = platform.machine()
    if machine not in ARCHITECTURES or sys.byteorder != "little":
        raise OSError(f"the numbers of {machine}'s system calls are not known here")
    column, architecture = ARCHITECTURES[machine]
    code = ctypes.create_string_buffer(_program(column, architecture, os.getpid()))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(code))
    # for all threads, those of libraries too
    if _call("syscall", SECCOMP[column], 1, 1, program) > 0:
        raise OSError("a thread stays without filter")


def _program(column: int, architecture: int, own: int) -> bytes:
    """The filter, in the kernel's BPF: what it does not name is allowed."""
    load, equal, least, some, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = (answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x80000000)
    refuse, missing = ((answer, 0, 0, 0x50000 | code) for code in (errno.EPERM, errno.ENOSYS))

    def argument(index: int) -> tuple[int, int, int, int]:
        return (load, 0, 0, 16 + 8 * index)

    rules = {int(number): [refuse] for number in REFUSED.split()[1 + column :: 3]}
    for numbers in TO_ITSELF:
        rules[numbers[column]] = [argument(0), (equal, 0, 1, own), allow, refuse]
    rules[CLONE[column]] = [argument(0), (some, 0, 1, CLONE_THREAD), allow, refuse]
    rules[CLONE3[column]] = [missing]
    owners = (equal, 1, 0, OWNERS[0]), (equal, 0, 1, OWNERS[1])
    rules[FCNTL[column]] = [argument(1), *owners, refuse, allow]
    rules.pop(0, None)
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), kill, (load, 0, 0, 0)]
    if column == 0:  # the numbers of x32, another way to the same calls
        steps += [(least, 0, 1, 0x40000000), missing]
    for number, rule in rules.items():
        steps += [(equal, 0, len(rule), number), *rule]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, allow])


def _miss_solutions(settings: dict[str, Any]) -> None:
    for path in settings["hidden"]:
        try:
            Path(path, "__init__.py").open("rb").close()
        except OSError:
            continue
        raise OSError(f"{path} can be read")


STEPS: dict[str, Callable[[dict[str, Any]], None]] = {  # in this order
    "user": _change_user,
    "parent": _end_with_parent,
    "landlock": _close_files,
    "limits": _limit,
    "seccomp": _refuse_calls,
    "solutions": _miss_solutions,
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        _find_numpy(sys.argv[1])
        print(json.dumps(_needs()))
    else:  # to try a confinement
        taken = harden(trying=True)
        _use_numpy()
        print(json.dumps(taken))
