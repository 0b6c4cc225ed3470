"""HDF5 files made to harm: each is refused soon, in little memory, and in words that say why; and
good ones are not.
"""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from effort import bounded_effort
from refusals import refuses

from xpcap.data import CaptionData, Source, Split, Vocabulary, hdf5, open_data, write_dataset
from xpcap.errors import DataError

ROOT = Path(__file__).parents[2]
NAMES = ["first.png", "second.png", "third.png"]
WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "dog"]


def small() -> CaptionData:
    captions = np.array([[1, 4, 2], [1, 3, 2], [1, 4, 2]], np.int32)
    features = np.random.default_rng(0).standard_normal((3, 4000)).astype(np.float32)
    splits = {
        name: Split(captions, np.arange(3, dtype=np.int32), features, NAMES, ["dog", "cat", "Dog!"])
        for name in ("train", "val")
    }
    return CaptionData(Vocabulary(WORDS), splits, source=Source(record={"importer": "test"}))


def edit(change: Callable[[h5py.File], Any]) -> Callable[[Path], Any]:
    def run(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return run


def features(**how: Any) -> Callable[[Path], Any]:
    """Other features than there were, without values."""

    def change(file: h5py.File) -> None:
        del file["train/features"]
        file["train"].create_dataset("features", **how)

    return edit(change)


def of_other_files(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 4000), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 4000))
    file.create_virtual_dataset("train/virtual", layout)


def with_filter(file: h5py.File) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((4,))
    plan.set_filter(32123, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(
        file["train"].id, b"odd", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((4,)), plan
    )


def compressed_bomb(file: h5py.File) -> None:
    """Four GiB of zeros in four MB, as one small piece that is stored again and again."""
    del file["train/features"]
    bomb = file["train"].create_dataset(
        "features", (256, 2**22), "f4", chunks=(1, 2**22), compression="gzip"
    )
    piece = zlib.compress(bytes(2**24), 9)
    for row in range(256):
        bomb.id.write_direct_chunk((row, 0), piece)


def text_bomb(path: Path) -> None:
    """A GB of picture names, all of them the same one of 64 KiB."""
    with h5py.File(path, "r+") as file:
        del file["train/images"]
        names = file["train"].create_dataset(
            "images", data=["x" * 2**16, *["y"] * 15_999], dtype=h5py.string_dtype()
        )
        place = names.id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 16_000] = content[place : place + 16] * 16_000
    path.write_bytes(content)


def endless(path: Path) -> None:
    """The last name's length, as the heap of names has it, becomes one that HDF5 goes round and
    round with.
    """
    content = path.read_bytes()
    head = struct.pack("<Q", len(NAMES[-1]))
    assert content.count(head + NAMES[-1].encode()) >= 1
    path.write_bytes(
        content.replace(head + NAMES[-1].encode(), struct.pack("<Q", 231) + NAMES[-1].encode())
    )


def four_gigabytes(path: Path) -> None:
    """A name that is said to have almost 4 GiB."""
    with h5py.File(path) as file:
        place = file["train/images"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 4] = struct.pack("<I", 2**32 - 1)
    path.write_bytes(content)


def many_names_for_one(file: h5py.File) -> None:
    file["train/same0"] = np.zeros(300_000, np.uint8)
    for i in range(1, 12):
        file[f"train/same{i}"] = file["train/same0"]


def attribute(value: Any) -> Callable[[Path], Any]:
    return edit(lambda f: f.attrs.__setitem__("xpcap", value))


def source(**changed: Any) -> Callable[[Path], Any]:
    def change(file: h5py.File) -> None:
        about = json.loads(file.attrs["xpcap"])
        file.attrs["xpcap"] = json.dumps({**about, "source": {**about["source"], **changed}})

    return edit(change)


def views(told: Any) -> Callable[[Path], Any]:
    return edit(
        lambda file: file.attrs.__setitem__(
            "xpcap", json.dumps({**json.loads(file.attrs["xpcap"]), "views": told})
        )
    )


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


COMPOUND = np.dtype([("a", "i4"), ("b", "f4")])
HOSTILE: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "a link out": (
        edit(lambda f: f.__setitem__("train/out", h5py.ExternalLink("/etc/passwd", "/"))),
        {"came": "leads elsewhere, 'out' (ExternalLink)"},
    ),
    "a soft link": (
        edit(lambda f: f.__setitem__("test", h5py.SoftLink("/train"))),
        {"came": "leads elsewhere, 'test' (SoftLink)"},
    ),
    "a virtual data set": (edit(of_other_files), {"came": "'/train/virtual'"}),
    "stored in another file": (
        features(shape=(64,), dtype="u1", external=[("/etc/passwd", 0, 64)]),
        {"came": ("'/train/features'", "stored in another file")},
    ),
    "far more than stored": (
        features(shape=(2**20, 2**20), dtype="f4"),
        {"came": f"{2**42:,} bytes and stores 0"},
    ),
    "far more pieces than stored": (
        features(shape=(2**40,), dtype="f4", chunks=(2**10,)),
        {"came": f"{2**42:,} bytes and stores 0"},
    ),
    "huge pieces": (
        features(shape=(2**25,), dtype="f4", chunks=(2**25,)),
        {"came": f"chunks of {2**27:,} bytes"},
    ),
    "a compressed bomb": (
        edit(compressed_bomb),
        {"came": (f"{2**32:,} bytes", "at most 200 for each")},
    ),
    "one text many times": (text_bomb, {"came": "more text in '/train/images'"}),
    "data that is shared": (edit(many_names_for_one), {"came": "share what is stored"}),
    "compound numbers": (features(data=np.zeros(3, COMPOUND)), {"came": "unusual type"}),
    "references": (
        edit(lambda f: f["train"].create_dataset("r", data=[f.ref], dtype=h5py.ref_dtype)),
        {"came": ("'/train/r'", "unusual type")},
    ),
    "rows of any length": (
        features(shape=(3,), dtype=h5py.vlen_dtype("f4")),
        {"came": "unusual type"},
    ),
    "an enumeration": (features(data=np.array([True])), {"came": "unusual type"}),
    "raw bytes": (features(data=np.zeros(3, "V9")), {"came": "unusual type"}),
    "a type as a member": (
        edit(lambda f: f.__setitem__("train/t", np.dtype("f4"))),
        {"came": "'t' that is neither"},
    ),
    "a filter of its own": (edit(with_filter), {"came": "filter 32123, expected gzip"}),
    "deep groups": (
        edit(lambda f: f.create_group("a/b/c")),
        {"came": "groups more than 1 deep, 'b'"},
    ),
    "a circle": (
        edit(lambda f: f.__setitem__("train/again", f["/"])),
        {"came": "groups more than 1 deep, 'again'"},
    ),
    "many members": (
        edit(lambda f: [f.create_group(f"g{i}") for i in range(70)]),
        {"came": "more than 64 members"},
    ),
    "texts in a table": (
        edit(lambda f: f["train"].create_dataset("t", (2, 2), h5py.string_dtype())),
        {"came": "'/train/t', expected a list"},
    ),
    "without an end": (endless, {"came": "takes far longer"}),
    "four gigabytes": (four_gigabytes, {"came": "far more memory"}),
    "no attribute but an array": (
        attribute(np.arange(3)),
        {"came": "attribute 'xpcap' that is not a text"},
    ),
    "a list of attributes": (
        attribute(["a", "b"]),
        {"came": "attribute 'xpcap' that is not a text"},
    ),
    "deep JSON": (attribute("[" * 50_000), {"came": "is no JSON"}),
    "no JSON": (attribute("{"), {"came": "is no JSON"}),
    "a name that bites": (
        edit(lambda f: (f.attrs.clear(), f.create_group("\x1b[2J"))),
        {"came": ("without xpcap's stamp", "'\\x1b[2J'")},
    ),
    "a format that bites": (
        attribute(json.dumps({"format": "\x1b" * 900})),
        {"came": "has format '\\x1b", "cause": "newer"},
    ),
    "views that are a list": (views([2]), {"came": "views [2]", "expected": "a count by split"}),
    "no views": (
        views({"train": 0}),
        {"came": "views {'train': 0}", "expected": "a count by split"},
    ),
    "more views than features": (
        views({"train": 10**9}),
        {"expected": "1000000000 views for each"},
    ),
    "a seed of text": (
        source(generated="pictures", seed="0"),
        {"came": "seed is '0'", "expected": "whole number"},
    ),
    "a seed that is true": (
        source(seed=True),
        {"came": "seed is 'True'", "expected": "whole number"},
    ),
    "a seed below 0": (source(seed=-1), {"came": "seed is '-1'", "expected": "whole number"}),
    "a huge seed": (source(seed=10**4000), {"came": "seed is '1000", "expected": "2**63-1"}),
    "no seed": (
        source(generated="pictures"),
        {"came": "seed is 'None'", "expected": "whole number"},
    ),
    "an encoder that is a list": (
        source(encoder=["x"]),
        {"came": "encoder is", "expected": "text"},
    ),
    "a folder that is a number": (
        source(pictures=3),
        {"came": "pictures is '3'", "expected": "text"},
    ),
    "a kind that is nothing": (
        source(generated=None),
        {"came": "generated is 'None'", "expected": "text"},
    ),
    "texts that overlap": (
        edit(lambda f: f["train/text_offsets"].__setitem__(1, 9)),
        {"thing": "text_offsets", "expected": "a rise from 0 to 10"},
    ),
    "texts that end early": (
        edit(lambda f: f["train/text_offsets"].__setitem__(3, 9)),
        {"came": "from 0 to 9", "expected": "a rise from 0 to 10"},
    ),
}
if hasattr(os, "mkfifo"):
    HOSTILE["a pipe"] = (pipe, {"came": "is a folder, pipe or device"})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    write_dataset(path, small())
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_soon_and_say_why(name: str, made: Path) -> None:
    spoil, fields = HOSTILE[name]
    spoil(made)
    with bounded_effort(), refuses(DataError, function="read_dataset", **fields) as caught:
        open_data(made)
    assert made.name in caught.value.thing
    assert "expected" in str(caught.value)
    assert "?" in caught.value.cause
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="peak memory is counted in other units elsewhere, and has no limit there",
)
@pytest.mark.slow
def test_all_of_them_together_take_little_memory_and_nothing_is_left_running(
    tmp_path: Path,
) -> None:
    for number, (spoil, _) in enumerate(HOSTILE.values()):
        write_dataset(tmp_path / f"{number}.h5", small())
        spoil(tmp_path / f"{number}.h5")
    code = """
import os, resource, sys
from pathlib import Path
from xpcap.data import open_data
from xpcap.errors import DataError
for path in Path(sys.argv[1]).iterdir():
    try:
        open_data(path)
    except DataError:
        continue
    raise SystemExit(f"{path} was read")
try:
    os.waitpid(-1, os.WNOHANG)
    raise SystemExit("a child is left")
except ChildProcessError:
    pass
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))  # ru_maxrss has that of pytest in it
print(int(peak.split()[1]) // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
    ours, theirs = map(int, script(code, tmp_path).split())
    assert ours < 300
    assert theirs < 300


def script(code: str, *arguments: Path) -> str:
    """Run code as a process of its own, in which warnings are errors; returns what it prints."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_a_file_is_looked_through_once_and_again_when_it_changed(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    validate = hdf5._validate
    monkeypatch.setattr(
        hdf5, "_validate", lambda path, most: asked.append(path) or validate(path, most)
    )  # type: ignore[func-returns-value]
    open_data(made)
    assert asked == []  # this process wrote it
    copy = made.with_name("copy.h5")
    copy.write_bytes(made.read_bytes())
    for _ in range(2):
        open_data(copy)
    assert len(asked) == 1
    os.utime(copy, (1, 1))
    open_data(copy)
    assert len(asked) == 2


def test_python_that_does_not_run_the_check_is_no_verdict_on_the_file(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "SCRIPT", made.with_name("nothing.py"))
    hdf5._known.clear()
    with pytest.raises(OSError, match=r"does not run .*nothing\.py, expected it to with h5py"):
        open_data(made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_validates_files_too_and_no_process_leaves_a_warning(made: Path) -> None:
    code = """
import os, sys
from xpcap.data import hdf5, open_data
open_data(sys.argv[1])
child = os.fork()
hdf5._known.clear()
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
    hdf5._known.clear()
    read = open_data(tmp_path / "zeros.h5")
    assert isinstance(read.split("train").features, h5py.Dataset)
    assert not read.features("train", np.array([2, 0])).any()
    read.split("train").features.file.close()
