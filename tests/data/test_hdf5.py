"""The dataset file: written so that damage shows, and read as other programs pack it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from xpcap.data import hdf5, open_data, write_dataset

pytest.importorskip("PIL")

from damage import small


def test_nothing_but_arrays_of_numbers_lies_outside_of_the_checksums_of_hdf5(
    tmp_path: Path,
) -> None:
    """HDF5 reads a flipped bit in a length of one of its texts as that length."""

    def check(name: str, item: h5py.Dataset | h5py.Group) -> None:
        assert not item.attrs, name
        assert isinstance(item, h5py.Group) or item.dtype.kind in "iuf", name

    write_dataset(tmp_path / "data.h5", small())
    with h5py.File(tmp_path / "data.h5") as file:
        assert file.id.get_create_plist().get_version()[0] == 3  # the first with checksums is 2
        file.visititems(check)


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "gzip", "compression_opts": 9, "shuffle": True},
        {"compression": "lzf", "fletcher32": True},
        {"chunks": (2, 3)},
    ],
)
def test_files_that_another_program_packed_are_read(how: dict[str, Any], tmp_path: Path) -> None:
    write_dataset(tmp_path / "data.h5", small())
    with h5py.File(tmp_path / "data.h5") as old, h5py.File(tmp_path / "packed.h5", "w") as new:
        for name in ("train", "val"):
            for key, value in old[name].items():
                kind = ">i8" if value.dtype.kind == "i" else value.dtype
                options = how if value.ndim == 2 else {}
                new.create_dataset(f"{name}/{key}", data=value[:], dtype=kind, **options)
                new[f"{name}/{key}"].attrs["note"] = "from elsewhere"
        new["xpcap"] = old["xpcap"][()]
        # what nobody reads
        new["train/type"], new["train/again"] = np.dtype("f4"), new["train"]
        new.create_dataset("train/table", (2, 2), h5py.string_dtype())
    read = open_data(tmp_path / "packed.h5")
    np.testing.assert_array_equal(read.split("val").features, small().split("val").features)
    assert read.texts("train") == ["dog", "cat", "Dog!"]


def test_features_of_nothing_but_zeros_and_features_that_stay_on_disk_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = small(), tmp_path / "zeros.h5"
    wide = replace(data.split("train"), features=np.zeros((3, 1_000_000), np.float32))
    write_dataset(path, replace(data, splits={"train": wide}))
    with h5py.File(path) as file:
        assert file["train/features"].compression == "gzip"
    monkeypatch.setattr(hdf5, "IN_MEMORY", 2**20)
    read = open_data(path)
    assert isinstance(read.split("train").features, h5py.Dataset)
    assert not read.features("train", np.array([2, 0])).any()
    read.split("train").features.file.close()
