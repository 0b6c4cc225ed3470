"""Splits of pictures: named by the file, by lists, or drawn by fractions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

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
    """The name of a split in small letters, of a synonym ours: Dev is val."""
    word = split.strip().lower()
    return SYNONYMS.get(word, word)


def with_split_names(rows: Iterable[CaptionRow], report: ImportReport) -> Iterator[CaptionRow]:
    """Rows of one file with their splits by our names; those without picture or split are skipped.

    DataError : a name that no split can have, or more than 20 of them.
    """
    known: set[str] = set()
    skipped = ""  # the source that was skipped last: a row with a list of captions is one
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
            expected = f"a name such as train, val or test, and at most {MAX_SPLITS} of them"
            raise DataError(row.source, "split", f"{(row.split or '')[:60]!r}", expected)
        known.add(split)
        yield row._replace(split=split)
    if restval:
        report.notes.append(f"restval joins train: {len(restval):,} pictures")


def by_lists(
    rows: Sequence[CaptionRow],
    lists: Mapping[str, str | Path],
    match: Callable[[Iterable[str]], Matches],
    report: ImportReport,
) -> list[CaptionRow]:
    """Rows of the listed pictures, in the order of the lists; names without rows are skipped.

    Pictures of no list are dropped, and noted.

    match : finds the pictures that names mean
    """
    captioned = {row.picture for row in rows}
    divided: list[CaptionRow] = []
    for split, path in lists.items():
        names = read_list(path)
        listed = match(names)
        listed.note(report)
        counts = Counter(listed.matches[name] for name in names if name in listed.matches)
        twice = [picture for picture, count in counts.items() if count > 1]
        report.note(f"pictures listed twice in {split!r}", twice)
        for name in dict.fromkeys(names):
            if listed.matches.get(name) not in captioned:
                kind = f"pictures of {split!r} that have no captions, or were skipped"
                report.skip(kind, name, remark=listed.unmatched.get(name, ""))
        rank = {picture: number for number, picture in enumerate(counts)}
        in_split = [row._replace(split=split) for row in rows if row.picture in rank]
        divided += sorted(in_split, key=lambda row: rank[row.picture])
    if aside := len(captioned) - len({row.picture for row in divided}):
        report.notes.append(f"pictures in no split: {aside:,}")
    return divided


def by_fractions(
    rows: Sequence[CaptionRow], fractions: Sequence[float], seed: int, cause: str = ""
) -> list[CaptionRow]:
    """Draw train, val and test by picture; rows stay in order within a split.

    The draw depends on the names and the seed, not on the order of the rows. DataError : too few
        pictures for as many splits, for the likely `cause`.
    """
    wanted = {split: part for split, part in zip(SPLITS, fractions, strict=False) if part}
    names = sorted({row.picture for row in rows})
    if len(names) < len(wanted):
        expected = f"at least one for each of {', '.join(wanted)}"
        raise DataError("by_fractions", "", f"{len(names)} pictures", expected, cause)
    counts = [max(1, round(part * len(names))) for part in list(wanted.values())[1:]]
    while sum(counts) >= len(names):  # few pictures: train has at least one
        counts[counts.index(max(counts))] -= 1
    drawn = np.repeat(list(wanted), [len(names) - sum(counts), *counts]).tolist()
    shuffled = np.random.default_rng(seed).permutation(len(names))
    split_of = {names[number]: split for number, split in zip(shuffled, drawn, strict=True)}
    order = list(wanted)
    divided = [row._replace(split=split_of[row.picture]) for row in rows]
    return sorted(divided, key=lambda row: order.index(row.split or ""))
