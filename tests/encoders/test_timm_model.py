"""Encoders of timm on a stand-in for timm and PyTorch: names, and threads that are given back."""

import contextlib
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from encoder_checks import check_encoder, check_name
from refusals import refuses

from xpcap.encoders import TimmEncoder, find_encoder
from xpcap.errors import DataError

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


class Tensor(np.ndarray):
    def numpy(self) -> np.ndarray:
        return np.asarray(self)


class Threads(threading.local):
    """PyTorch's number of threads: of each thread of the program, at first the last that was set."""

    last = 8

    def __init__(self) -> None:
        self.number = Threads.last

    def set(self, number: int) -> None:
        self.number = Threads.last = number


class Model:
    """A network whose map is its input and whose features are the means of channels."""

    num_features, pretrained_cfg = 3, {"architecture": "net", "tag": "first"}

    def __init__(self) -> None:
        self.weights = np.arange(3.0).view(Tensor)
        self.watch: Callable[[], object] = list

    def eval(self) -> "Model":
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {"w": self.weights}

    def forward_features(self, x: Tensor) -> Tensor:
        self.watch()
        return x

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean((2, 3))


def transform(picture: Any) -> Tensor:
    scaled = np.asarray(picture.resize((4, 4)), np.float32) / 255
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)).view(Tensor)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model of timm, and torch.get_num_threads in its `threads`."""
    monkeypatch.setattr(Threads, "last", 8)
    made, threads = Model(), Threads()
    made.threads = lambda: threads.number  # type: ignore[attr-defined]
    data = SimpleNamespace(
        resolve_model_data_config=lambda model: {"input_size": (3, 4, 4)},
        create_transform=lambda **options: transform,
    )
    timm = SimpleNamespace(
        is_model=lambda name: name.split(".")[0] == "net",
        list_models=lambda: ["net"],
        create_model=lambda name, **options: made,
        data=data,
    )
    torch = SimpleNamespace(
        get_num_threads=made.threads,  # type: ignore[attr-defined]
        set_num_threads=threads.set,
        inference_mode=contextlib.nullcontext,
        zeros=lambda shape: np.zeros(shape, np.float32).view(Tensor),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    return made


def test_a_name_finds_the_same_weights_again_and_no_others(model: Model) -> None:
    encoder = find_encoder("timm:net:grid=2")
    assert encoder.name.startswith("timm:net.first:grid=2:sha256=")
    check_encoder(encoder)
    check_name(encoder)
    whole = find_encoder("timm:net").encode([PICTURE])
    assert (encoder.shape, whole.shape) == ((4, 3), (1, 3))
    np.testing.assert_allclose(encoder.encode([PICTURE])[0].mean(axis=0), whole[0], rtol=1e-6)
    model.weights = model.weights + 1
    with refuses(DataError, "replaced since the features were made"):
        find_encoder(encoder.name)
    with refuses(DataError, "model of timm", "did you mean 'net'"):
        find_encoder("timm:nett")


def test_pytorch_has_its_threads_again_also_when_a_picture_is_refused(model: Any) -> None:
    encoder, seen = TimmEncoder("timm:net"), []
    model.watch = lambda: seen.append(model.threads())
    pictures = (seen.append(model.threads()) or PICTURE for _ in range(2))
    encoder.encode(pictures)
    assert seen == [8, 1, 8, 1]  # those who give pictures have theirs
    with pytest.raises(TypeError):
        encoder.encode([PICTURE / 255])
    model.watch = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        encoder.encode([PICTURE])
    assert model.threads() == 8


def test_two_threads_at_a_time_have_their_threads_again(model: Any) -> None:
    encoder, both, seen = TimmEncoder("timm:net"), threading.Barrier(2), []

    def within() -> None:
        both.wait()
        seen.append(model.threads())

    def work() -> None:
        encoder.encode([PICTURE])
        seen.append(model.threads())

    model.watch = within
    others = [threading.Thread(target=work) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert sorted(seen) == [1, 1, 8, 8]
    assert Threads().number == 8  # of a thread that begins now
