"""Processes that talk: a message arrives where two run at once, and none where grading orders them.

A process that holds right layers would send these. Here a sign is enough, upon which the receiver
takes right layers out of its own file.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from students import FILES

from xpcap.exercise import table
from xpcap.exercise.grading import hardening, roster
from xpcap.exercise.grading.confine import Confinement, Limits, confinement
from xpcap.exercise.grading.grade import PASSES, Grading

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux has these channels"),
]


class Channel(NamedTuple):
    """Lines of Python, in which KEY is a number that both processes know.

    both : what both run first
    tell : what the sender does
    hear : what tells the receiver, as `heard`
    lasts : also when the sender has ended
    refused : by every confinement
    """

    name: str
    both: str
    tell: str
    hear: str
    lasts: bool = False
    refused: bool = False


LIBRARY = """
import glob, os
library = os.path.dirname(os.__file__)
files = sorted(glob.glob(f"{library}/*.py"))
first, second = files[KEY % len(files)], files[(KEY + 1) % len(files)]
"""
CHANNELS = [
    Channel(
        "record locks",
        f"{LIBRARY}\nimport fcntl, struct\nfile = open(first, 'rb')",
        "fcntl.lockf(file, fcntl.LOCK_SH, 1, KEY)",
        """
asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, KEY, 1, 0)
heard = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK
""",
    ),
    Channel(
        "locks of files",
        f"{LIBRARY}\nimport fcntl\nfile = open(first, 'rb')",
        "fcntl.flock(file, fcntl.LOCK_EX)",
        """
try:
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(file, fcntl.LOCK_UN)
    heard = False
except BlockingIOError:
    heard = True
""",
    ),
    Channel(
        "inotify",
        f"""{LIBRARY}
import ctypes
libc, events, opened, size = ctypes.CDLL(None), b"", 0x20, 16
watch = libc.inotify_init1(os.O_NONBLOCK)
for file in (first, second):
    libc.inotify_add_watch(watch, file.encode(), opened)
""",
        "for file in (first, second) * 20:\n    open(file).close()",
        """
try:
    events += os.read(watch, 2**16)
except BlockingIOError:
    pass
heard = len(events) >= 40 * size
""",
    ),
    Channel(
        "the page cache",
        f"""{LIBRARY}
file = os.open(f"{{library}}/pydoc_data/topics.py", os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
pages = [(4096 * number, KEY >> number & 1) for number in range(32)]
""",
        """
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
for place, bit in pages:
    os.pread(file, bit, place)
""",
        """
right = 0
for place, bit in pages:
    try:
        right += os.preadv(file, [bytearray(1)], place, os.RWF_NOWAIT) == bit
    except BlockingIOError:
        right += not bit
heard = right >= 29  # the system takes a page now and then
""",
        lasts=True,
    ),
    Channel(
        "local sockets",
        "import socket\nend = socket.socket(socket.AF_UNIX)",
        "end.bind(f'\\0xpcap {KEY}')\nend.listen()",
        "heard = socket.socket(socket.AF_UNIX).connect_ex(f'\\0xpcap {KEY}') == 0",
        refused=True,
    ),
    Channel(
        "names of processes",
        "import ctypes, glob",
        "ctypes.CDLL(None).prctl(15, f'{KEY}'.encode(), 0, 0, 0)",
        """
names = []
for file in glob.glob("/proc/[0-9]*/comm"):
    try:
        names.append(open(file).read())
    except OSError:  # it has ended
        pass
heard = f"{KEY}\\n" in names
""",
        refused=True,
    ),
    Channel(
        "shared memory",
        "import os\nplace = f'/dev/shm/xpcap {KEY}'",
        "open(place, 'w').close()",
        "heard = os.path.exists(place)",
        lasts=True,
        refused=True,
    ),
]
ORDER = Confinement("none", "not confined", ())  # and nothing else that holds
LIMITS = Limits(memory=1.0)
SECONDS = 1.0  # that a sender stays, and that a receiver waits


@pytest.fixture
def key() -> Iterator[int]:
    number = secrets.randbelow(2**31) | 2**30
    yield number
    Path(f"/dev/shm/xpcap {number}").unlink(missing_ok=True)


@contextlib.contextmanager
def process(held: Confinement, folder: Path, code: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """What a process prints, and a pipe from which it may read."""
    folder.mkdir()
    shutil.copy(hardening.__file__, folder / "hardening.py")
    pipe, end = os.pipe()
    lines = [
        "import os, sys",
        "sys.path.insert(0, os.path.dirname(__file__))",
        "import hardening",
        "hardening.harden()",
        f"def wait(): os.read({pipe}, 1)",
        code,
    ]
    (folder / "child.py").write_text("\n".join(lines))
    out = subprocess.PIPE
    with (
        held.start(folder, [], LIMITS, pass_fds=[pipe], stdout=out) as started,
        os.fdopen(end, "wb", 0) as go,
    ):
        os.close(pipe)
        assert started.process.stdout
        with started.process.stdout as printed:
            yield printed, go


WAYS = {
    "order": [channel.name for channel in CHANNELS],
    "confined": [channel.name for channel in CHANNELS if not channel.refused],
}


@pytest.mark.parametrize(("way", "name"), [(way, name) for way in WAYS for name in WAYS[way]])
def test_a_message_arrives_where_nothing_orders_two_processes(
    way: str, name: str, tmp_path: Path, key: int
) -> None:
    """Or that nothing is heard below would say nothing."""
    held = ORDER if way == "order" else confinement()
    (channel,) = (one for one in CHANNELS if one.name == name)
    first = f"KEY = {key}\n{channel.both}"
    says = f"exec({channel.hear!r})\nprint(heard, flush=True)"
    receives = f"{first}\n{says}\nwait()\n{says}"
    sends = f"{first}\n{channel.tell}\nprint('sent', flush=True)\nwait()"
    with process(held, tmp_path / "receiver", receives) as (heard, go):
        assert heard.readline() == b"False\n"
        with process(held, tmp_path / "sender", sends) as (sent, _):
            assert sent.readline() == b"sent\n"
            go.write(b".")
            assert heard.readline() == b"True\n"


TALK = """
import contextlib, select, sys, time
SPACES = []
for both, tell, hear in {lines}:
    with contextlib.suppress(OSError):  # it is refused
        exec(both, space := dict(KEY={key}))
        SPACES.append((space, tell, hear))
def send():
    for space, tell, _ in SPACES:
        with contextlib.suppress(OSError):
            exec(tell, space)
    select.select([], [], [], {seconds})
def is_heard():
    for space, _, hear in SPACES:
        with contextlib.suppress(OSError):
            exec(hear, space)
            if space["heard"]:
                return True
"""
RECEIVE = """
end = time.monotonic() + {seconds}
while "right_layers" not in sys.modules and time.monotonic() < end:
    if is_heard():
        exec({right!r})
        break
    select.select([], [], [], 0.01)
"""
LAYERS = FILES["rnn_layers.py"]
RNN = FILES["classifiers/rnn.py"].replace("from ..rnn_layers", "from rnn_layers")
NOTHING = "\n".join(f"{row.name} = None" for row in table.functions(["rnn_layers"]) if row.points)


def talk(channels: Sequence[Channel], key: int) -> str:
    lines = [(channel.both, channel.tell, channel.hear) for channel in channels]
    return TALK.format(lines=lines, key=key, seconds=SECONDS)


def receiver(channels: Sequence[Channel], key: int) -> str:
    """Layers of one who knows nothing."""
    return f"{NOTHING}\n{talk(channels, key)}{RECEIVE.format(seconds=SECONDS, right=LAYERS)}"


@pytest.mark.parametrize("way", WAYS)
def test_right_layers_tell_a_submission_nothing_that_it_is_still_marked_for(
    way: str, tmp_path: Path, key: int
) -> None:
    send = f"{talk(CHANNELS, key)}if 'right_layers' in sys.modules: send()\n"
    (tmp_path / "rnn_layers.py").write_text(receiver(CHANNELS, key))
    (tmp_path / "rnn.py").write_text(send + RNN)
    held = ORDER if way == "order" else confinement()
    grading = Grading(tmp_path, expect=table.HANDED_IN, seed=key, confined=held)
    for step in PASSES:
        grading.take(step)
    marks = {mark.function: mark.points for mark in grading.report().marks}
    own = {row.name: row.points for row in table.functions(["rnn"])}
    assert marks == dict.fromkeys(marks, 0.0) | own


@pytest.mark.parametrize("way", WAYS)
def test_a_student_tells_another_nothing_while_both_are_marked(
    way: str, tmp_path: Path, key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lasts is left out: SECURITY.md does not promise that nobody leaves a copy behind."""
    held = ORDER if way == "order" else confinement()
    monkeypatch.setattr(roster, "confinement", lambda require: held)
    channels = [channel for channel in CHANNELS if not channel.lasts]
    for name, text in (
        ("friend", f"{LAYERS}\n{talk(channels, key)}send()\n"),
        ("receiver", receiver(channels, key)),
    ):
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / "rnn_layers.py").write_text(text)
    done = roster.grade_class(tmp_path / "class", tmp_path / "out", expect=["rnn_layers"], jobs=2)
    assert {one.student: one.report.score for one in done} == {"friend": 100.0, "receiver": 0.0}
