"""Splits of pictures: named by the file, by lists, or drawn from names, with copies in one split."""

import hashlib
import itertools
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xpcap.data.dataset import may_name_a_split
from xpcap.errors import DataError
from xpcap.prepare.names import Matches
from xpcap.prepare.rows import CaptionRow, ImportReport
from xpcap.prepare.text import read_list

SPLITS = ("train", "val", "test")
SYNONYMS = {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
    "restval": "train",
}
MAX_SPLITS = 20


def our_name(split: str) -> str:
    """The name of a split in lower case, without synonyms: val for Dev."""
    word = split.strip().lower()
    return SYNONYMS.get(word, word)


def with_split_names(rows: Iterable[CaptionRow], report: ImportReport) -> Iterator[CaptionRow]:
    """Rows of a file with the names of `our_name`; rows without a picture or split are skipped.

    DataError : a name is invalid, or there are more than 20.
    """
    known: set[str] = set()
    skipped = ""  # source of the last skipped row; its further captions are not counted again
    restval: set[str] = set()
    for row in rows:
        word = None if row.split is None else row.split.strip().lower()
        if not row.picture or word == "":
            if row.source != skipped:
                kind = "rows without a split" if row.picture else "rows without a picture"
                report.skip(kind, row.source.rpartition(", ")[2])
            skipped = row.source
            continue
        if word is None:
            yield row
            continue
        if word == "restval":
            restval.add(row.picture)
        split = our_name(word)
        if split not in known and (not may_name_a_split(split) or len(known) == MAX_SPLITS):
            raise DataError(
                f"{row.source}: split {(row.split or '')[:60]!r}, expected a name such as train,"
                f" val or test, and at most {MAX_SPLITS} of them"
            )
        known.add(split)
        yield row._replace(split=split)
    if restval:
        report.notices.append(f"restval joins train: {len(restval):,} pictures")


def by_lists(
    rows: Sequence[CaptionRow],
    lists: Mapping[str, str | Path],
    match: Callable[[Iterable[str]], Matches],
    report: ImportReport,
    encoding: str | None = None,
) -> list[CaptionRow]:
    """Rows of the listed pictures, in the order of the lists; names without rows are skipped.

    Pictures in no list are dropped, with a notice.

    match : matches names with pictures
    encoding : of the lists, as in `read_list`
    """
    captioned = {row.picture for row in rows}
    divided: list[CaptionRow] = []
    for split, path in lists.items():
        names = read_list(path, encoding)
        listed = match(names)
        listed.notice(report)
        counts = Counter(listed.matches[name] for name in names if name in listed.matches)
        twice = [picture for picture, count in counts.items() if count > 1]
        report.notice(f"pictures listed twice in {split!r}", twice)
        for name in dict.fromkeys(names):
            if listed.matches.get(name) not in captioned:
                kind = f"pictures of {split!r} that have no captions, or were skipped"
                report.skip(kind, name, reason=listed.unmatched.get(name, ""))
        order = {picture: number for number, picture in enumerate(counts)}
        in_split = [row._replace(split=split) for row in rows if row.picture in order]
        divided += sorted(in_split, key=lambda row: order[row.picture])
    if dropped := len(captioned) - len({row.picture for row in divided}):
        report.notices.append(f"pictures in no split: {dropped:,}")
    return divided


def share(name: str, seed: int) -> float:
    """A number in [0, 1) computed from a picture's name, in any Unicode form, and the seed."""
    text = unicodedata.normalize("NFC", f"{seed} {name}")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def by_shares(
    rows: Sequence[CaptionRow],
    fractions: Sequence[float],
    seed: int,
    report: ImportReport,
    digests: Mapping[str, bytes] | None = None,
) -> list[CaptionRow]:
    """Divide rows into train, val and test by the `share` of their picture.

    Copies of a picture get the smallest of their shares. A split that would be empty gets a group of
    copies of a neighbour. Train has the smallest shares, so adding a picture moves no other out of
    train, as long as no split has to be filled.

    digests : digests of features by picture, equal for copies; moves are reported. None: unknown
    DataError : there are fewer pictures than splits.
    """
    wanted = {
        split: fraction for split, fraction in zip(SPLITS, fractions, strict=False) if fraction
    }
    splits = [*wanted]
    bounds = [*itertools.accumulate(wanted.values())][:-1]
    shares = {name: share(name, seed) for name in sorted({row.picture for row in rows})}
    groups: dict[object, list[str]] = {}  # copies, in the order of their smallest share
    for name in sorted(shares, key=shares.__getitem__):
        groups.setdefault(name if digests is None else digests[name], []).append(name)
    if len(groups) < len(splits):
        raise DataError(
            f"too few pictures: {len(groups)}, expected at least one for each of {', '.join(splits)}, copies"
            f" counted once; {'; '.join(report.lines(captioned=True))}"
        )

    def drawn(name: str) -> str:
        return splits[bisect_right(bounds, shares[name])]

    ends = [0]
    for following, bound in zip(range(len(bounds), 0, -1), bounds, strict=True):
        below = sum(shares[names[0]] < bound for names in groups.values())
        ends.append(min(max(below, ends[-1] + 1), len(groups) - following))
    split_of: dict[str, str] = {}
    joined: list[str] = []
    filling: list[str] = []
    for number, names in enumerate(groups.values()):
        split = splits[bisect_right(ends, number) - 1]
        split_of.update(dict.fromkeys(names, split))
        moves = filling if split != drawn(names[0]) else joined
        moves += [f"{name} to {split}" for name in names if drawn(name) != split]
    if digests is not None:
        report.notice("pictures moved to the split of a copy", sorted(joined))
        report.notice("pictures moved to a split that would be empty", sorted(filling))
    divided = [row._replace(split=split_of[row.picture]) for row in rows]
    return sorted(divided, key=lambda row: splits.index(row.split or ""))


def note_copies(
    rows: Iterable[CaptionRow], digests: Mapping[str, bytes], report: ImportReport
) -> None:
    """Report pictures that have the features of another one, in the same split or in others."""
    split_of = {row.picture: row.split for row in rows}
    originals: dict[bytes, str] = {}
    within: list[str] = []
    across: list[str] = []
    for name in sorted(split_of, key=lambda name: split_of[name] != "train"):
        original = originals.setdefault(digests[name], name)
        if split_of[original] != split_of[name]:
            across.append(f"{name} of {split_of[name]} is {original} of {split_of[original]}")
        elif original != name:
            within.append(f"{name} is {original}")
    report.notice("copies of other pictures of their split", within)
    report.notice("copies of pictures of another split, so that scores are too good", across)
