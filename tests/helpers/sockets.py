"""Runs a command whose network sockets, and its children's, are refused and recorded by Linux
itself: seccomp sees what C code asks for too.

As a script: ``python sockets.py RECORD COMMAND...`` writes a JSON list to RECORD and leaves with
the command's exit status.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

NUMBERS = {
    "x86_64": (0xC000003E, 41, 317),
    "aarch64": (0xC00000B7, 198, 277),
}  # of the architecture, and of its calls socket and seccomp
NO_NEW_PRIVS, SET_MODE_FILTER, NEW_LISTENER = 38, 1, 8
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of BPF: a word at an offset; skip instructions; an answer
NOTIFY, ALLOW = 0x7FC00000, 0x7FFF0000
RECEIVE, SEND = 0xC0502100, 0xC0182101  # ioctls of a listener
NOTIFICATION, ANSWER = struct.Struct("=QII iIQ6Q"), struct.Struct("=QqiI")
UNUSABLE = 77  # exit status where the system cannot filter


def run(
    command: Sequence[object], folder: Path, environment: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command in a folder. The network sockets that it asked for, as ``"AF_INET of python"``;
    those of AF_UNIX and AF_NETLINK stay local.

    Raises
    ------
    OSError : this system cannot filter; the message says why.
    """
    with TemporaryDirectory() as place:
        record = Path(place, "sockets.json")
        whole = [sys.executable, __file__, str(record), *map(str, command)]
        done = subprocess.run(
            whole, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode == UNUSABLE:
            raise OSError(done.stderr.strip())
        return done, json.loads(record.read_text())


def _program(architecture: int, call: int) -> bytes:
    """The filter: notify of `socket` unless its family, the first argument, is local."""
    steps = [
        (LOAD, 0, 0, 4),
        (EQUAL, 0, 6, architecture),
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 4, call),
        (LOAD, 0, 0, 16),
        (EQUAL, 2, 0, socket.AF_UNIX),
        (EQUAL, 1, 0, socket.AF_NETLINK),
        (RETURN, 0, 0, NOTIFY),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _filter() -> int:
    """Filter this process and all it starts, for good. The listener's descriptor. OSError : the
    system does not allow it.
    """
    if platform.machine() not in NUMBERS:
        raise OSError(f"the numbers of {platform.machine()}'s system calls are not known here")
    architecture, call, seccomp = NUMBERS[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(_program(architecture, call))
    program = struct.pack("@HP", len(code.raw) // 8, ctypes.addressof(code))
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = int(libc.syscall(seccomp, SET_MODE_FILTER, NEW_LISTENER, program))
    if listener < 0:
        raise OSError(f"seccomp: {os.strerror(ctypes.get_errno())}")
    return listener


def _start(command: list[str], channel: socket.socket) -> None:
    """In the child: filter, hand the listener over, become the command."""
    try:
        socket.send_fds(channel, [b"filtered"], [_filter()])
    except OSError as error:
        channel.send(str(error).encode())
        os._exit(UNUSABLE)
    os.execvp(command[0], command)


def _refuse(listener: int) -> str:
    """Refuse the socket that a process waits for, and say whose it was."""
    notification = bytearray(NOTIFICATION.size)
    fcntl.ioctl(listener, RECEIVE, notification)
    identity, process, _, _, _, _, family, *_ = NOTIFICATION.unpack(notification)
    name = Path(f"/proc/{process}/comm").read_text().strip()
    fcntl.ioctl(listener, SEND, bytearray(ANSWER.pack(identity, 0, -errno.EACCES, 0)))
    return f"{socket.AddressFamily(family).name} of {name}"


def main() -> int:
    """Run the command and write its record."""
    record, *command = sys.argv[1:]
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _start(command, theirs)
    message, descriptors, _, _ = socket.recv_fds(ours, 1000, 1)
    if not descriptors:
        print(message.decode(), file=sys.stderr)
        return UNUSABLE
    asked, (listener,), ended = [], descriptors, os.pidfd_open(child)
    poll = select.poll()
    for descriptor in (listener, ended):
        poll.register(descriptor, select.POLLIN)
    while (
        listener
        in (ready := [descriptor for descriptor, event in poll.poll() if event & select.POLLIN])
        or ended not in ready
    ):
        with contextlib.suppress(
            FileNotFoundError, ProcessLookupError
        ):  # of a process that was killed as it waited
            asked.append(_refuse(listener))
    _, status = os.waitpid(child, 0)
    Path(record).write_text(json.dumps(asked))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
