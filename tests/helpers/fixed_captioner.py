"""A captioner of pictures that do not exist, and names that are hard to write."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from xpcap.captioning.outputs import GrowingFile, write_captions
from xpcap.runs.records import PictureCaption, Skipped

UNREADABLE = ("x.png",)
NAMES = ["a.png", 'q"uo"te, b.png', "x.png", "two\nlines.png", "犬;.png"]
if os.name == "posix":
    NAMES.append(os.fsdecode(b"\xff.png"))
CAPTIONER = "Lauf; 2, greedy"


class FixedCaptioner:
    """A captioner that knows its captions, and its run; it needs no pictures.

    name : the captioner, as rows name it
    """

    def __init__(self, name: str = CAPTIONER) -> None:
        self.name, self.asked, self.run = name, list[str](), self

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
            if path.name in UNREADABLE:
                yield Skipped(str(path), 'is "no" picture,\nexpected one')
            else:
                yield PictureCaption(str(path), f"Hündchen auf {path}", [], [])

    def write(self, names: Sequence[str], *outputs: GrowingFile) -> list[str]:
        """Write captions of pictures of these names; returns the names of those it captioned."""
        self.asked = []
        write_captions(self, names, outputs=outputs)  # type: ignore[arg-type]
        return self.asked
