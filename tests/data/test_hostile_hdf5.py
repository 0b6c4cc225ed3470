"""The screening of HDF5 files: once a file, by another process, and good ones pass it."""

import os
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from programs import program
from refusals import refuses

from xpcap.data import CaptionData, Split, hdf5, open_data, write_dataset
from xpcap.errors import DataError

pytest.importorskip("PIL")

from damage import NAMES, WORDS, small

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    write_dataset(path, small())
    return path


def script(code: str, *arguments: Path) -> str:
    """Run code as a process of its own, in which warnings are errors; returns what it prints."""
    result = program(code, *arguments)
    assert result.stderr == ""
    return result.stdout


def test_a_file_is_looked_through_once_and_again_when_it_changed(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Mock(side_effect=subprocess.run)
    monkeypatch.setattr(subprocess, "run", run)
    open_data(made)
    assert run.call_count == 0  # this process wrote it
    copy = made.with_name("copy.h5")
    copy.write_bytes(made.read_bytes())
    for _ in range(2):
        open_data(copy)
    assert run.call_count == 1
    os.utime(copy, (1, 1))
    open_data(copy)
    assert run.call_count == 2


def test_a_file_that_takes_the_place_of_a_screened_one_is_not_read(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, other = made.with_name("copy.h5"), made.with_name("other.h5")
    for path in (copy, other):
        path.write_bytes(made.read_bytes())
    run = subprocess.run

    def run_and_replace(*args: Any, **options: Any) -> Any:
        done = run(*args, **options)
        other.replace(copy)
        return done

    monkeypatch.setattr(subprocess, "run", run_and_replace)
    with refuses(DataError, thing="copy.h5", got="changed while it was opened"):
        open_data(copy)


def test_python_that_does_not_run_the_check_is_no_verdict_on_the_file(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "SCRIPT", made.with_name("nothing.py"))
    os.utime(made, (1, 1))
    with pytest.raises(OSError, match=r"does not run .*nothing\.py, expected it to with h5py"):
        open_data(made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_screens_files_too_and_no_process_leaves_a_warning(made: Path) -> None:
    code = """
import os, sys
from xpcap.data import open_data
open_data(sys.argv[1])
os.utime(sys.argv[1], (1, 1))
child = os.fork()
open_data(sys.argv[1])
if child == 0:
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert script(code, made) == "3\n"


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "gzip", "compression_opts": 9, "shuffle": True},
        {"compression": "lzf", "fletcher32": True},
        {"chunks": (2, 3)},
    ],
)
def test_good_files_in_other_clothes_are_read(how: dict[str, Any], made: Path) -> None:
    """As a file is after another program packed it: compressed, numbers big-endian, with attributes
    of others.
    """
    packed = made.with_name("packed.h5")
    with h5py.File(made) as old, h5py.File(packed, "w", libver="latest") as new:
        new.attrs.update({**old.attrs, "note": np.zeros(9)})
        new.create_dataset("vocab", data=WORDS, dtype=h5py.string_dtype())
        for name in ("train", "val"):
            for key, value in old[name].items():
                kind = ">i8" if value.dtype.kind == "i" else value.dtype
                new.create_dataset(
                    f"{name}/{key}", data=value[:], dtype=kind, **(how if value.ndim == 2 else {})
                )
                new[f"{name}/{key}"].attrs["note"] = "from elsewhere"
        # what nobody reads
        new["train/type"], new["train/again"] = np.dtype("f4"), new["train"]
        new.create_dataset("train/table", (2, 2), h5py.string_dtype())
    read = open_data(packed)
    np.testing.assert_array_equal(read.split("val").features, small().split("val").features)
    assert read.texts("train") == ["dog", "cat", "Dog!"]


def test_features_of_nothing_but_zeros_and_features_that_stay_on_disk_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small()
    split = data.split("train")
    wide = Split(
        split.captions, split.image_idxs, np.zeros((3, 3_000_000), np.float32), NAMES, split.text
    )
    write_dataset(tmp_path / "zeros.h5", CaptionData(data.vocabulary, {"train": wide}))
    with h5py.File(tmp_path / "zeros.h5") as file:
        assert file["train/features"].compression == "lzf"
    monkeypatch.setattr(hdf5, "IN_MEMORY", 2**20)
    read = open_data(tmp_path / "zeros.h5")
    assert isinstance(read.split("train").features, h5py.Dataset)
    assert not read.features("train", np.array([2, 0])).any()
    read.split("train").features.file.close()
