"""The one reader of pickles: weights of a known digest become arrays, and no name is called."""

import hashlib
import io
import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap.encoders.torch_weights import read_torch
from xpcap.errors import DataError

NUMBERS = np.arange(6, dtype=np.float32)
HEAD = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))


class FloatStorage:
    """Pickled by its name in PyTorch, as the function below."""


def _rebuild_tensor_v2() -> None:
    pass


class Tensor:
    """A tensor of a storage "0" of six numbers, as PyTorch pickles it."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        storage = ["storage", FloatStorage, "0", "cpu", NUMBERS.size, None]
        self.arguments = storage, offset, shape, strides, False, OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return tuple(thing) if isinstance(thing, list) and thing[:1] == ["storage"] else None


@pytest.fixture
def pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of PyTorch's names, which pickle looks names up in."""
    for thing, module in ((FloatStorage, "torch"), (_rebuild_tensor_v2, "torch._utils")):
        stand_in = ModuleType(module)
        setattr(stand_in, thing.__name__, thing)
        monkeypatch.setattr(thing, "__module__", module)
        monkeypatch.setitem(sys.modules, module, stand_in)


def read(path: Path, content: bytes) -> dict[str, np.ndarray]:
    path.write_bytes(content)
    return read_torch(path, hashlib.sha256(content).hexdigest())


@pytest.mark.usefixtures("pytorch")
def test_arrays_come_out_as_they_were_strided_shared_and_read_only(tmp_path: Path) -> None:
    file = io.BytesIO(HEAD)
    file.seek(0, io.SEEK_END)
    tensors = OrderedDict(
        rows=Tensor(0, (2, 3), (3, 1)),
        columns=Tensor(0, (3, 2), (1, 3)),
        tail=Tensor(4, (2,), (1,)),
        one=Tensor(5, (), ()),
    )
    Pickler(file, 2).dump(tensors)
    pickle.dump(["0"], file, 2)
    file.write(struct.pack("<q", NUMBERS.size) + NUMBERS.tobytes())
    arrays = read(tmp_path / "w.pth", file.getvalue())
    np.testing.assert_array_equal(arrays["rows"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(arrays["columns"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(arrays["tail"], [4, 5])
    assert (arrays["one"].shape, float(arrays["one"])) == ((), 5)
    assert not any(array.flags.writeable for array in arrays.values())


def test_another_digest_is_refused_before_anything_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"cos\nsystem\n.")  # an UnpicklingError for who reads it
    with refuses(DataError, "has SHA-256", "0000"):
        read_torch(tmp_path / "w.pth", "0" * 64)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("torch", "QUInt8Storage"),
    ],
)
@pytest.mark.parametrize("before", [b"", HEAD])
def test_names_that_weights_do_not_need_are_refused_and_nothing_is_called(
    module: str, name: str, before: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = f"c{module}\n{name}\n(S'touch owned'\ntR.".encode()
    with pytest.raises(pickle.UnpicklingError, match=f"it names {module}.{name}"):
        read(Path("w.pth"), before + call)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]
