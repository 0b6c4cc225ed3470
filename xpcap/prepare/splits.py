"""Which picture is in which split: by what a file says, by lists, or by fractions; and what an import left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xpcap.data.dataset import may_name_a_split
from xpcap.errors import DataError
from xpcap.prepare.text import read_list

NAMED = 3  # of each kind, and as many with a remark


class Findings:
    """What files turned out to be, what an import left out, and notes. Readers and what follows them add to one."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.forms: list[str] = []  # of the files, in their order
        self._named: dict[str, list[str]] = {}
        self._remarked: dict[str, list[str]] = {}

    def skip(self, kind: str, name: str, *, remark: str = "") -> None:
        """Count one thing that is left out. `kind` is a plural, such as ``captions without a word``; `name` says which one, `remark` why."""
        self.skipped[kind] += 1
        named = (self._remarked if remark else self._named).setdefault(kind, [])
        if len(named) < NAMED:
            named.append(f"{name[:100]} ({remark[:400]})" if remark else name[:100])

    def note(self, kind: str, names: Sequence[str]) -> None:
        """Note things that are not left out, by number and the first few names; nothing if there is none."""
        if names:
            self.notes.append(_listed(kind, len(names), [name[:100] for name in names[:NAMED]]))

    def lines(self) -> list[str]:
        """One line a kind: ``captions without a word: 4 (a.jpg, b.jpg, c.jpg, ...)``, those with a remark after those without."""
        return [_listed(kind, count, self._named.get(kind, []) + self._remarked.get(kind, [])) for kind, count in self.skipped.items()]

    def refuse(self, where: str) -> None:
        """DataError : something was left out."""
        if self.skipped:
            raise DataError(f"{where}: {'; '.join(self.lines())}; expected nothing that must be left out, as `strict` asks")


def _listed(kind: str, count: int, named: Sequence[str]) -> str:
    return f"{kind}: {count:,} ({', '.join(named)}{', ...' if count > len(named) else ''})"


ByPicture = dict[str, list[str]]  # a picture's captions
BySplit = dict[str, ByPicture]
Row = tuple[str, str, Sequence[str], str]  # its place in the file, the picture, its captions, its split

SPLITS = ("train", "val", "test")
MEANT = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test", "restval": "train"}
MOST_SPLITS = 20
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


def gather(rows: Iterable[Row], has_split: bool, findings: Findings) -> BySplit | ByPicture:
    """Rows of any file by picture, and by split if the file has one. DataError : a split has a name that cannot be one's."""
    by_split: BySplit = {}
    rest: set[str] = set()
    for place, picture, texts, told in rows:
        picture = picture.strip()
        word = told.strip().lower()
        if not picture or (has_split and not word):
            findings.skip("rows without a split" if picture else "rows without a picture", place)
            continue
        if word == "restval":
            rest.add(picture)
        split = MEANT.get(word, word) if has_split else ""
        if split not in by_split and has_split and (not may_name_a_split(split) or len(by_split) == MOST_SPLITS):
            raise DataError(f"{place}: split {told[:60]!r}, expected a name such as train, val or test, and at most {MOST_SPLITS} of them")
        by_split.setdefault(split, {}).setdefault(picture, []).extend(texts)
    if rest:
        findings.notes.append(f"restval joins train: {len(rest):,} pictures")
    return by_split if has_split else by_split.get("", {})


def by_lists(captions: Mapping[str, list[str]], lists: Mapping[str, str | Path], findings: Findings) -> BySplit:
    """Split to picture to its captions, pictures in the order of the lists; those of no list are left aside, and noted."""
    made: BySplit = {}
    for split, path in lists.items():
        names = read_list(path)
        for name in names:
            if name not in captions:
                findings.skip(f"pictures of {split!r} that have no captions, or were skipped", name)
        made[split] = {name: captions[name] for name in names if name in captions}
    if aside := len(captions) - len(set().union(*made.values())):
        findings.notes.append(f"pictures in no split: {aside:,}")
    return made


def by_fractions(captions: Mapping[str, list[str]], fractions: Sequence[float], seed: int) -> BySplit:
    """Draw train, val and test. Who is in which depends on the names and the seed, not on the order of the file, which is kept in each.

    Raises
    ------
    DataError : fractions that are no fractions, or too few pictures for as many splits.
    """
    if not 1 <= len(fractions) <= len(SPLITS) or not all(0 <= part <= 1 for part in fractions) or abs(sum(fractions) - 1) > 1e-6 or not fractions[0]:
        raise DataError(f"by_fractions: fractions {', '.join(f'{part:g}' for part in fractions)}, expected those of train, val and test, together 1")
    wanted = [(split, part) for split, part in zip(SPLITS, fractions, strict=False) if part]
    names = sorted(captions)
    if len(names) < len(wanted):
        raise DataError(f"by_fractions: {len(names)} pictures, expected at least one for each of {', '.join(split for split, _ in wanted)}")
    counts = [max(1, round(part * len(names))) for _, part in wanted[1:]]
    while sum(counts) >= len(names):  # few pictures: train has at least one
        counts[counts.index(max(counts))] -= 1
    ends = np.cumsum([len(names) - sum(counts), *counts])
    owner: dict[str, str] = {}
    for place, number in enumerate(np.random.default_rng(seed).permutation(len(names))):
        owner[names[number]] = wanted[int(np.searchsorted(ends, place, side="right"))][0]
    return {split: {name: texts for name, texts in captions.items() if owner[name] == split} for split, _ in wanted}
