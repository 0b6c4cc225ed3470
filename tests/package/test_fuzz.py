"""Whatever bytes, text, JSON or arrays a file holds, it is read, or refused by an expected error.

hypothesis spoils the good files of damage.READERS, and captions of every format.
"""

import contextlib
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis
import numpy as np
import pytest
from caption_formats import FORMATS
from damage import READERS, about, array, tensors
from examples import holds
from hypothesis import strategies as st

from xpcap.errors import EXPECTED
from xpcap.prepare import read_captions

NUMBERS = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([255, 2**15, 2**31 - 1, 2**32, 2**63 - 1, 2**64, 10**30, 10**400]),
    st.floats(),
)
TEXTS = st.text(st.characters() | st.sampled_from("\0\t\r\n#/\\\x1b\u2028\u202e\ufeff"))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
CAPTIONS = {f"{name}.jpg": ['A dog, "spotted", runs .', "a dog"] for name in ("one", "two")}
DTYPES = st.sampled_from(["u1", "i4", ">i8", "f2", "f4", "f8", "c8", "?", "S3", "V2"])


@st.composite
def spoilt_bytes(draw: Any, content: bytes) -> bytes:
    """Content that is cut short, or has pieces overwritten, taken out or doubled near its start."""
    if draw(st.integers(0, 5)) == 0:
        return content[: draw(st.integers(0, len(content)))]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)) | st.integers(0, min(len(content), 4000)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 4, 8, 200])))
        piece = draw(st.binary(max_size=8) | st.just(content[start:end] * 2))
        content = content[:start] + piece + content[end:]
    return content


@st.composite
def spoilt_json(draw: Any, content: bytes) -> bytes:
    """JSON with another value somewhere, or nested without end."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([b"[", b'{"a":', b"-", b"1"])) * 100_000
    value = part = [json.loads(content)]
    key: Any = 0
    while isinstance(part[key], (dict, list)) and part[key] and draw(st.booleans()):
        part = part[key]
        key = draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
    part[key] = draw(VALUES)
    return json.dumps(value[0]).encode()


@st.composite
def spoilt_text(draw: Any, content: bytes) -> bytes:
    """Lines with other text, doubled, long or gone, in any encoding."""
    lines = content.decode().split("\n")
    at = draw(st.integers(0, len(lines) - 1))
    lines[at : at + draw(st.integers(0, 1))] = draw(st.lists(TEXTS, max_size=3))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines * draw(st.sampled_from([1, 50])))
    return text.encode(draw(st.sampled_from(["utf-8", "utf-16", "latin-1"])), "replace")


def spoil_dataset(draw: Any, path: Path) -> None:
    """Another array, or another value in the JSON, of a data set."""
    with h5py.File(path) as file:
        names: list[str] = []
        file.visititems(lambda name, member: hasattr(member, "shape") and names.append(name))
        header = json.loads(file["xpcap"][()].tobytes()) if "xpcap" in file else {}
    if header and draw(st.booleans()):
        return about(**{draw(st.sampled_from(sorted(header))): draw(VALUES)})(path)
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 3, 1000]), max_size=2)))
    return array(draw(st.sampled_from(names)), np.zeros(shape, draw(DTYPES)))(path)


def spoil_tensors(draw: Any, path: Path) -> None:
    """Another tensor, or another value in the JSON, of a safetensors file."""

    def change(held: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        if draw(st.booleans()) and meta:
            meta[draw(st.sampled_from(sorted(meta)))] = draw(VALUES)
        else:
            values = held[draw(st.sampled_from(sorted(held)))]
            values.reshape(-1).view("u1")[:4] = draw(st.integers(0, 255))

    tensors(change)(path)


def spoil(draw: Any, path: Path) -> None:
    """Spoil a file as what it is, or as bytes."""
    forms = {".json": spoilt_json, ".jsonl": spoilt_text, ".txt": spoilt_text}
    members = {".h5": spoil_dataset, ".safetensors": spoil_tensors}
    content = path.read_bytes()
    if path.suffix in members and draw(st.booleans()):
        with contextlib.suppress(TypeError, ValueError):  # no such file can be written
            members[path.suffix](draw, path)
    elif path.suffix in forms and draw(st.integers(0, 3)):
        path.write_bytes(draw(forms[path.suffix](content)))
    else:
        path.write_bytes(draw(spoilt_bytes(content)))


def caption_file(form: str) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    content = FORMATS[form](CAPTIONS)
    is_json = content[:1] in b"[{" and b"}\n{" not in content
    name = "captions.json" if is_json else "captions.txt"
    return (
        lambda folder: (folder / name).write_bytes(content),
        lambda folder: read_captions([(None, folder / name)]),
    )


KINDS = {
    **{name: pair for name, pair in READERS.items() if name not in ("picture", "captions")},
    **{form: caption_file(form) for form in FORMATS},
}
USES: dict[str, Callable[[Any], object]] = {  # what a command would take from what was read
    "dataset": lambda data: [data.minibatch(name, np.arange(1)) for name in data.splits],
    "course": lambda data: [data.minibatch(name, np.arange(1)) for name in data.splits],
    "run": lambda run: json.dumps((run.config.to_json(), run.meta)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_file_is_read_or_refused_by_an_expected_error(kind: str, tmp_path: Path) -> None:
    (make, read), use = KINDS[kind], USES.get(kind, bool)
    make(tmp_path)
    use(read(tmp_path))  # as it is

    @holds(st.data(), number=12)
    def check(data: Any) -> None:
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("error")
            folder = Path(name)
            make(folder)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            path = data.draw(st.sampled_from(paths))
            spoil(data.draw, path)
            hypothesis.note(f"{path.name}: {path.read_bytes()[:200]!r}")
            with contextlib.suppress(EXPECTED):
                use(read(folder))

    check()
