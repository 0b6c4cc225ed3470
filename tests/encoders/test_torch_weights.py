"""The one reader of pickles: weights of a known digest go in as arrays, and nothing that a file
names is called.
"""

import hashlib
import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from refusals import refuses

from xpcap.encoders.torch_weights import read_torch
from xpcap.errors import DataError


class Global:
    """Pickled as the call of a function by its name, as torch pickles tensors, and as an attacker
    pickles a command.
    """

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    def __init__(self, key: str, count: int, kind: str = "FloatStorage") -> None:
        self.key, self.count, self.kind = key, count, kind


class Pickler(pickle._Pickler):  # type: ignore[name-defined] # the one in Python, whose parts can be replaced
    """Writes what PyTorch's old format holds, without PyTorch."""

    dispatch: ClassVar[Any] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def persistent_id(self, thing: Any) -> Any:
        return (
            ("storage", Name("torch", thing.kind), thing.key, "cpu", thing.count, None)
            if isinstance(thing, Storage)
            else None
        )

    def save_name(self, thing: Any) -> None:
        self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())

    def save_global_call(self, thing: Global) -> None:
        self.save_name(thing)
        self.save(thing.arguments)
        self.write(pickle.REDUCE)


class Name(Global):
    """Pickled as a name alone."""


Pickler.dispatch.update({Global: Pickler.save_global_call, Name: Pickler.save_name})


def tensor(
    key: str, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Global:
    return Global(
        "torch._utils",
        "_rebuild_tensor_v2",
        Storage(key, count),
        offset,
        shape,
        strides,
        False,
        OrderedDict(),
    )


def torch_file(
    state: Any, storages: dict[str, np.ndarray], magic: Any = 0x1950A86A20F9469CFC6C
) -> bytes:
    file = io.BytesIO()
    for part in (magic, 1001, {"little_endian": True}, state, list(storages)):
        Pickler(file, 2).dump(part)
    for numbers in storages.values():
        file.write(struct.pack("<q", numbers.size) + numbers.tobytes())
    return file.getvalue()


def read(path: Path, content: bytes) -> dict[str, np.ndarray]:
    path.write_bytes(content)
    return read_torch(path, hashlib.sha256(content).hexdigest())


NUMBERS = np.arange(6, dtype=np.float32)


def test_arrays_come_out_as_they_were_strided_shared_and_read_only(tmp_path: Path) -> None:
    state = OrderedDict(
        rows=tensor("0", 6, 0, (2, 3), (3, 1)),
        columns=tensor("0", 6, 0, (3, 2), (1, 3)),
        tail=tensor("0", 6, 4, (2,), (1,)),
    )
    state["one"] = tensor("0", 6, 5, (), ())
    arrays = read(tmp_path / "w.pth", torch_file(state, {"0": NUMBERS}))
    np.testing.assert_array_equal(arrays["rows"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(arrays["columns"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(arrays["tail"], [4, 5])
    assert (arrays["one"].shape, float(arrays["one"])) == ((), 5)
    assert not any(array.flags.writeable for array in arrays.values())


def test_another_digest_is_refused_before_anything_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.encoders.torch_weights._Reader", None)
    (tmp_path / "w.pth").write_bytes(torch_file(OrderedDict(), {}))
    with refuses(DataError, came="has SHA-256", expected="0000"):
        read_torch(tmp_path / "w.pth", "0" * 64)


def called(module: str, name: str, *arguments: Any) -> OrderedDict[str, Any]:
    return OrderedDict(w=Global(module, name, *arguments))


HOSTILE = {
    "os.system": torch_file(called("os", "system", "touch owned"), {}),
    "posix.system": torch_file({}, {}, magic=Global("posix", "system", "touch owned")),
    "builtins.eval": torch_file(called("builtins", "eval", "open('owned', 'w')"), {}),
    # a part of a module that has an allowed name
    "collections.OrderedDict.__init__": torch_file(
        Name("collections", "OrderedDict.__init__.__globals__"), {}
    ),
    "torch.QUInt8Storage": torch_file(Storage("0", 6, "QUInt8Storage"), {"0": NUMBERS}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_weights_do_not_need_are_refused_and_nothing_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=f"it names {name}"):
        read(Path("w.pth"), HOSTILE[name])
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]
