"""Splits that are drawn: by picture, the same whatever is added, with copies in one of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failing
from refusals import refuses

from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, ImportReport, import_captions
from xpcap.prepare.splits import by_shares, share

FRACTIONS = (0.8, 0.1, 0.1)
NAMES = [f"img{number:04}.jpg" for number in range(400)]


def drawn(
    names: Iterable[str],
    fractions: Iterable[float] = FRACTIONS,
    seed: int = 0,
    copies: dict[str, str] | None = None,
) -> dict[str, str | None]:
    """The split of each picture, where `copies` are called after their originals."""
    rows = [CaptionRow(name, "a") for name in names]
    digests = {row.picture: (copies or {}).get(row.picture, row.picture).encode() for row in rows}
    rows = by_shares(rows, [*fractions], seed, ImportReport(), digests)
    return {row.picture: row.split for row in rows}


def of(splits: dict[str, str | None], split: str) -> set[str]:
    return {name for name in splits if splits[name] == split}


def test_rows_are_divided_by_picture_from_names_and_seed_alone() -> None:
    rows = [CaptionRow(name, text) for name in NAMES for text in ("a", "b")]
    divided = by_shares(rows, FRACTIONS, 3, ImportReport())
    assert [row._replace(split=None) for row in sorted(divided, key=lambda row: row[:2])] == rows
    assert list(dict.fromkeys(row.split for row in divided)) == ["train", "val", "test"]
    val = [row.picture for row in divided if row.split == "val"]
    assert val == sorted(val)
    splits = drawn(NAMES, seed=3)
    assert {row.picture: row.split for row in divided} == splits == drawn(NAMES[::-1], seed=3)
    assert splits != drawn(NAMES, seed=4)
    assert [round(len(of(splits, split)) / 40) for split in ("train", "val", "test")] == [8, 1, 1]
    assert {*drawn(NAMES, (0.5, 0, 0.5)).values()} == {"train", "test"}
    assert share("\u00fc.jpg", 3) == share("u\u0308.jpg", 3)
    longer = drawn([*NAMES, *(f"{'adgjmps'[i % 7]}{i}.jpg" for i in range(21))], seed=3)
    assert {name: longer[name] for name in NAMES} == splits  # no picture of val was in train before


@pytest.mark.parametrize("fractions", [FRACTIONS, (0.5, 0.5), (0.3, 0.1, 0.6)])
def test_a_set_that_grows_trains_on_what_it_trained_on_and_no_split_is_empty(
    fractions: tuple[float, ...],
) -> None:
    for seed in range(10):
        first = next(name for name in NAMES if share(name, seed) < fractions[0])
        names = list(dict.fromkeys([first, *NAMES[:40]]))
        trained: set[str] = set()
        for count in range(len(fractions), len(names)):
            splits = drawn(names[:count], fractions, seed)
            assert len({*splits.values()}) == len(fractions)
            assert trained <= of(splits, "train")
            trained = of(splits, "train")


def test_copies_that_are_added_move_no_picture_out_of_train_and_count_as_one() -> None:
    names, copies = NAMES[:100], {}
    trained = of(drawn(names), "train")
    for number in range(60):
        copies[f"copy {number}.jpg"] = names[7 * number % 100]
        splits = drawn([*names, *copies], copies=copies)
        assert all(splits[copy] == splits[name] for copy, name in copies.items())
        assert trained <= of(splits, "train")
        trained = of(splits, "train")
    assert len(trained & {*names}) > len(of(drawn(names), "train"))  # some moved there
    few = "at least one for each of train, val, test, copies counted once"
    with refuses(DataError, "pictures: 2", few):
        drawn(NAMES[:2])
    with refuses(DataError, "pictures: 2", few):
        drawn(NAMES[:9], copies=dict.fromkeys(NAMES[:8], "a"))


class Halves:
    """An encoder that makes the brightness of the left and the right half, and counts pictures."""

    name, shape, count = "halves", (2,), 0

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        rows = [[half.mean() for half in np.hsplit(picture, 2)] for picture in pictures]
        self.count += len(rows)
        return np.array(rows, np.float32)


@pytest.fixture
def twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of fifty photos, each under two, in the folder photos and in c.csv."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    names = [f"{number:02}{end}.png" for number in range(50) for end in ("", " (1)")]
    for number, name in enumerate(names):
        picture = np.random.default_rng(number // 2).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(picture).save(Path("photos") / name)
    write("c.csv", names)
    return names


def write(file: str, names: Iterable[str]) -> None:
    Path(file).write_text("image,caption\n" + "".join(f"{name},a cat\n" for name in names))


def test_copies_are_in_one_split_and_a_move_is_told(twice: list[str]) -> None:
    options: dict[str, Any] = {"pictures": "photos", "encoder": (encoder := Halves())}
    data, report = import_captions([(None, "c.csv")], min_count=1, **options)
    splits = {name: split for split in data.splits for name in data.split(split).images}
    alone = drawn(twice)
    moved = [name for name in twice if splits[name] != alone[name]]
    assert all(splits[name] == splits[copy] for name, copy in zip(*[iter(twice)] * 2, strict=True))
    assert of(alone, "train") < of(splits, "train")
    notices = "\n".join(report.notices)
    assert f"pictures moved to the split of a copy: {len(moved)} (" in notices
    assert f"{moved[0]} to {splits[moved[0]]}" in notices
    assert "copies of other pictures of their split: 50 (" in notices
    assert " (1).png is " in notices
    assert "another split" not in notices

    train = data.split("train")
    features, mirrors = np.split(np.asarray(train.features), 2)
    np.testing.assert_array_equal(mirrors, features[:, ::-1])
    assert encoder.count == len(twice) + len(of(alone, "train"))  # none twice

    np.savez("f.npz", names=twice, features=np.arange(50.0).repeat(2)[:, None])
    of_features, _ = import_captions([(None, "c.csv")], features_file="f.npz", min_count=1)
    for name, split in data.splits.items():
        assert of_features.split(name).images == split.images


def test_copies_in_splits_that_are_given_are_told_and_stay(twice: list[str]) -> None:
    write("train.csv", twice[:7])
    write("val.csv", twice[7:])
    options: dict[str, Any] = {"pictures": "photos", "encoder": Halves(), "strict": True}
    data, report = import_captions([("val", "val.csv"), ("train", "train.csv")], **options)
    assert data.split("train").images == twice[:7]
    told = "another split, so that scores are too good: 1 (03 (1).png of val is 03.png of train)"
    assert f"copies of pictures of {told}" in report.notices


def test_a_seed_or_shares_of_splits_that_are_given_are_refused(twice: list[str]) -> None:
    write("train.txt", twice)
    command = "prepare --pictures photos --encoder histogram --out own.h5".split()
    failing([*command, "train=c.csv", "--seed", "0"], "splits train already, expected no --seed")
    failing([*command, "train=c.csv", "--fractions", "1"], "expected no --fractions")
    lists = ["c.csv", "--split", "train=train.txt", "--seed", "3"]
    failing([*command, *lists], "--split and --seed are both given", status=2)
