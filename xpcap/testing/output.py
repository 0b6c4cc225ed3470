"""The contract of an output that grows: what `caption` and `write_captions` rely on.

::

    from xpcap.testing import check_output
    check_output(JsonLines)

holds a subclass of `xpcap.runs.outputs.Growing` to all of it, in temporary folders.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from xpcap.errors import DataError
from xpcap.growing import SKIPPED
from xpcap.runs import write_captions
from xpcap.runs.outputs import CsvTable, Growing
from xpcap.runs.records import Hypothesis, PictureCaption, Skipped
from xpcap.testing.claims import check, fail
from xpcap.work import work

UNREADABLE = ("x.png", "y.png")
NAMES = ["a.png", 'q"uo"te.png', "x.png", "two\nlines.png", "a, b.png", "y.png", "犬;.png"]
if os.name == "posix":
    NAMES.append(os.fsdecode(b"\xff.png"))
READABLE = [name for name in NAMES if name not in UNREADABLE]
CAPTIONER = "Lauf; 2, greedy"
OTHERS = (
    b"mine",
    b"\n",
    b"\n\na",
    b'{"picture": "a.png", "caption": "mine"}',
    b'{"picture": "a.png", "caption": "mine"}\n',
    b'{"picture": ' + b"[" * 100_000 + b"\n",
)


# ---- What claims are about


class FixedCaptioner:
    """A captioner that knows its captions, and its run; it needs no pictures.

    name : the captioner, as rows name it
    unreadable : pictures that it cannot read
    """

    def __init__(self, name: str = CAPTIONER, unreadable: Sequence[str] = UNREADABLE) -> None:
        self.name, self.unreadable, self.asked = name, unreadable, list[str]()
        self.run = self

    def decoder(self, policy: object) -> Any:
        """The policy, as a run's decoder has it."""
        return SimpleNamespace(policy=policy)

    def signature(self, policy: object) -> str:
        """The captioner, as rows name it."""
        return self.name

    def captions(
        self, pictures: Iterable[Path], **options: object
    ) -> Iterator[PictureCaption | Skipped]:
        """A caption of each picture that it can read; `asked` has all names."""
        for path in pictures:
            self.asked.append(str(path))
            if path.name in self.unreadable:
                yield Skipped(str(path), 'is "no" picture,\nexpected one')
            else:
                yield PictureCaption(str(path), f"Hündchen auf {path}", [], [])

    def write(self, names: Sequence[str], *outputs: Growing) -> list[str]:
        """Write captions of pictures of these names; returns the names of those it captioned."""
        self.asked = []
        write_captions(self, names, outputs=outputs)  # type: ignore[arg-type]
        return self.asked


class Trial(NamedTuple):
    """A kind of output, and a folder for its files."""

    kind: type[Growing]
    folder: Path

    def __str__(self) -> str:
        return f"output {self.kind.__name__}"

    @property
    def path(self) -> Path:
        """A file of the kind."""
        return self.folder / f"c{self.kind.suffix}"

    def write(self, names: Sequence[str], captioner: str = CAPTIONER) -> list[str]:
        """Start or continue the file; returns the names of the pictures that were captioned."""
        return FixedCaptioner(captioner).write(names, self.kind(self.path))

    def names(self) -> list[str]:
        """The pictures that the file has, as it is continued."""
        with self.kind(self.path) as file:
            file.begin(None, CAPTIONER, [])  # type: ignore[arg-type]
            return [name for name in NAMES if name in file]

    def refuses(self, what: str, why: str, write: Callable[[], object]) -> None:
        """Raise ContractError unless a DataError names the file and why, and no byte changes."""
        content = self.path.read_bytes()
        try:
            write()
        except DataError as error:
            if self.path.name not in error.thing or not re.search(why, str(error)):
                fail(f"the error of {what}", f"is {str(error)!r}", f"{self.path.name}, {why!r}")
        else:
            fail(what, "is continued", "a DataError")
        if self.path.read_bytes() != content:
            fail(what, "has changed", "no byte to be written")


Claim = Callable[[Trial], None]


def check_asked(thing: str, asked: Sequence[str], expected: Sequence[str]) -> None:
    """Raise ContractError unless the pictures that files lack are captioned, and no other."""
    if list(asked) != list(expected):
        fail(thing, f"has {list(asked)} captioned", f"the pictures without a row, {expected}")


# ---- The claims


def names_kept(trial: Trial) -> None:
    """A picture is known by its row, whatever its name."""
    trial.write(NAMES)
    if (names := trial.names()) != READABLE:
        fail("the file", f"has rows of {names}", READABLE)


def captions_kept(trial: Trial) -> None:
    """A row holds the captions that are asked for: one, or several."""
    for best in (1, 3):
        name, texts = f"{best}.png", [f"caption {k}" for k in range(best)]
        hypotheses = [Hypothesis(text, 0.0) for text in texts]
        path = trial.path.with_stem(f"best{best}")
        with trial.kind(path, best=best) as file:
            file.begin(None, CAPTIONER, [name])  # type: ignore[arg-type]
            file.add(PictureCaption(name, texts[0], [], [], hypotheses))
        content = path.read_bytes()
        if lacking := [text for text in texts if text.encode() not in content]:
            fail(f"the row of {best} captions", f"lacks {lacking}", "what `texts` returns")


def cut_anywhere(trial: Trial) -> None:
    """Continued, a file cut at any byte has the bytes of one that was never cut.

    Only the pictures without a whole row are captioned again, but for a lacking line end.
    """
    ends: dict[str, int] = {}
    for name in NAMES:
        trial.write([name])
        if name in READABLE:
            ends[name] = trial.path.stat().st_size
    content = trial.path.read_bytes()
    for cut in range(len(content) + 1):
        trial.path.write_bytes(content[:cut])
        asked = trial.write(NAMES)
        thing = f"a file of {len(content)} bytes that was cut to {cut}"
        if trial.path.read_bytes() != content:
            ending = f"ends in {trial.path.read_bytes()[cut:]!r} when it is continued"
            fail(thing, ending, content[cut:])
        lacking = [name for name in NAMES if ends.get(name, len(content) + 2) > cut + 1]
        check_asked(thing, asked, lacking)


def line_end_lacking(trial: Trial) -> None:
    """A last row that lacks its line end alone stays, if its captioner goes on."""
    names, thing = NAMES[:2], "a file whose last row lacks its line end"
    trial.write(names[:1])
    content = trial.path.read_bytes()
    trial.path.write_bytes(content[:-1])
    check_asked(thing, trial.write(names), names[1:])
    if not trial.path.read_bytes().startswith(content):
        fail(thing, "has another beginning when it is continued", content)
    trial.path.write_bytes(content[:-1])
    longer = f"{CAPTIONER}, forbid dog"  # of its name, the other's is the beginning
    check_asked(f"{thing}, of another captioner,", trial.write(names, longer), names)
    trial.path.write_bytes(content[:-1])
    trial.refuses(
        f"{thing}, of another captioner,", "captions by other", lambda: trial.write(names, "other")
    )


def captioners_apart(trial: Trial) -> None:
    """A file takes captions of one captioner, and as many of each picture."""
    trial.write(NAMES[:1])
    trial.refuses(
        "a file of another captioner", "captions by other", lambda: trial.write(NAMES, "other")
    )
    three = trial.kind(trial.path, best=3)
    trial.refuses(
        "a file of one caption per picture, given three,",
        "caption_3|n_best 3",
        lambda: FixedCaptioner().write(NAMES, three),
    )


def others_refused(trial: Trial) -> None:
    """A file of others is refused, and stays."""
    trial.write(NAMES[:1])
    for content in (*OTHERS, trial.path.read_bytes() + b"[1]\n"):
        trial.path.write_bytes(content)
        thing = f"the file {content[-40:]!r} of others"
        trial.refuses(thing, "a new file, or", lambda: trial.write(NAMES))


def one_writer(trial: Trial) -> None:
    """Two commands never write to one file: the second is refused, the first goes on."""
    with trial.kind(trial.path) as file:
        file.begin(None, CAPTIONER, NAMES)  # type: ignore[arg-type]
        for name in NAMES[:2]:
            file.add(PictureCaption(name, "a dog", [], []))
            trial.refuses(
                "a file in use", "is being written by another process", lambda: trial.write(NAMES)
            )
    if (names := trial.names()) != NAMES[:2]:
        fail("a file that a second command was refused", f"has rows of {names}", NAMES[:2])
    check_asked("a file that a second command was refused", trial.write(NAMES), NAMES[2:])


def side_by_side(trial: Trial) -> None:
    """Beside another file, what both have is left out, and each becomes what it is alone."""
    pair = [trial, trial._replace(kind=CsvTable, folder=trial.folder / "other")]
    pair[1].folder.mkdir()
    contents: list[bytes] = []  # of each alone
    for member, names in zip(pair, (READABLE[:2], READABLE[1:4]), strict=True):
        for pictures in (names, NAMES):
            member.write(pictures)
        contents.append(member.path.read_bytes())
        member.path.unlink()
        member.path.with_suffix(SKIPPED).unlink()
        member.write(names)
    notices: list[str] = []
    with work(on_notice=notices.append):
        asked = FixedCaptioner().write(NAMES, *(member.kind(member.path) for member in pair))
    check_asked("a file beside another", asked, [name for name in NAMES if name != NAMES[1]])
    expected = [
        f"{member.path} has {rows} of {len(NAMES)} pictures already; adding the other"
        f" {len(NAMES) - rows}"
        for member, rows in zip(pair, (2, 3), strict=True)
    ]
    if notices != expected:
        fail("a file beside another", f"has the notices {notices}", expected)
    for member, content in zip(pair, contents, strict=True):
        if member.path.read_bytes() != content:
            fail("a file beside another", f"holds {member.path.read_bytes()!r}", f"{content!r}")
        if not member.path.with_suffix(SKIPPED).is_file():
            fail("a file beside another", "has no list of failures", "one each")


OUTPUT: tuple[Claim, ...] = (
    names_kept,
    captions_kept,
    cut_anywhere,
    line_end_lacking,
    captioners_apart,
    others_refused,
    one_writer,
    side_by_side,
)


def check_output(kind: type[Growing], contract: Iterable[Claim] = OUTPUT) -> None:
    """Check the contract of a growing output, on captions without pictures.

    Parameters
    ----------
    kind : type
        A subclass of xpcap.runs.outputs.Growing.
    contract : iterable of callable
        Claims, of OUTPUT. Each has a new temporary folder.

    Raises
    ------
    ContractError
        A claim does not hold. It names the kind, the file, and what was expected. An error of the
        kind itself goes through, with a note of kind and claim.
    """
    for claim in contract:
        with tempfile.TemporaryDirectory() as folder, work(on_notice=lambda notice: None):
            check("check_output", Trial(kind, Path(folder)), [claim])
