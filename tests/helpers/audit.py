"""Runs commands and records the paths they change, the sockets they use and the programs they
start. test_safety runs this as a script.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# audit event: (argument with a path that changes, argument with the folder it is relative to or
# None), ...
PATHS = {
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
}
STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "os.startfile",
)

AF_UNIX = getattr(socket, "AF_UNIX", None)


class Record:
    """What one command did: paths it changed, programs it started, socket events."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.started: list[str] = []
        self.sockets: list[str] = []

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, int) and flags & WRITING:
                self.changed.append(os.path.realpath(os.fsdecode(path)))  # an open follows links
        elif event in PATHS:
            self.changed += [_path(arguments, *where) for where in PATHS[event]]
        elif event in STARTS:
            self.started.append(str(arguments[0]))
        elif event.startswith("socket.") and not _is_local(*arguments):
            self.sockets.append(event)


def _is_local(asked: Any, *arguments: Any) -> bool:
    """True for a socket of AF_UNIX, which reaches no further than this machine."""
    family = getattr(asked, "family", None)
    return AF_UNIX is not None and AF_UNIX in (family, *arguments[:1])


def _path(arguments: tuple[Any, ...], path: int, folder: int | None) -> str:
    """The absolute path of a name that is created, moved or removed. Links among its parent folders
    are resolved; the name itself is not.
    """
    name = arguments[path]
    if isinstance(name, int):
        return str(_open_folder(name))
    handle = -1 if folder is None else arguments[folder]
    start = _open_folder(handle) if isinstance(handle, int) and handle >= 0 else Path.cwd()
    target = start / os.fsdecode(name)
    return str(Path(os.path.realpath(target.parent)) / target.name)


def _open_folder(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


def main() -> None:
    """Run the commands of a JSON list in turn, and print their records as JSON."""
    record: Record | None = None

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if record is not None:
            record.note(event, arguments)

    import commands

    from xpcap.trainer import train

    train.generate = commands.few
    sys.addaudithook(hook)
    records = []
    for arguments in json.loads(sys.argv[1]):
        record = Record()
        result = commands.call(*arguments)
        done, record = record, None
        records.append({**vars(done), "status": result.exit_code, "output": result.output})
    print(json.dumps(records))


if __name__ == "__main__":
    main()
