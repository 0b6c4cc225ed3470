"""The contract of encoders: kept by each kind that the library has and by one of somebody's own; and an
encoder that breaks a claim is named with what is wrong.
"""

import itertools
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap.encoders import ENCODERS, Encoder, EncoderSpec, TimmEncoder, find_encoder
from xpcap.errors import ContractError, DataError
from xpcap.onnx_graph import Graph
from xpcap.testing import ENCODER, check_encoder
from xpcap.testing import encoder as contract

pytest.importorskip("PIL")


class MeanColour:
    """An encoder of somebody's own, whose ways tests change."""

    name: Any = "mean-colour"
    shape: Any = (3,)

    def encode(self, pictures: Iterable[np.ndarray]) -> Any:
        features = [self.feature(picture) for picture in pictures]
        return np.array(features, np.float32)

    def feature(self, picture: np.ndarray) -> Any:
        return picture.mean((0, 1)) / 255


ENDS = ("", ":grid=2")  # of names


def exported(folder: Path, end: str) -> Encoder:
    """A network whose features are the means of channels; for a grid, a map of what it is given."""
    graph = Graph()
    x = graph.node("Relu", graph.input("pictures", np.float32, ["N", 3, 4, 6]))
    if not end:
        x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
    graph.output("features", x, np.float32, ["N", 3, 4, 6] if end else ["N", 3])
    path = folder / f"model{len(end)}.onnx"
    path.write_bytes(graph.to_bytes())
    return find_encoder(f"onnx:{path}:mean=0:std=1{end}")


MADE: dict[str, Callable[[Path], list[Encoder]]] = {  # of kinds whose names need more
    "timm": lambda folder: [TimmEncoder("timm:resnet10t", pretrained=False)],
    "onnx": lambda folder: [exported(folder, end) for end in ENDS],
}
each_claim = pytest.mark.parametrize("claim", ENCODER, ids=lambda claim: claim.__name__)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_keeps_the_contract_to_the_bit_and_refuses_what_is_no_picture(
    kind: str, tmp_path: Path
) -> None:
    row = ENCODERS[kind]
    assert row.licence.strip(), (
        f"encoder {kind!r} states no licence; one without weights needs none"
    )
    try:
        row.require_packages(kind)
    except DataError as error:
        pytest.skip(str(error))
    names = [f"{kind}{end}" for end in (ENDS if "grid" in row.options else ENDS[:1])]
    encoders = MADE[kind](tmp_path) if kind in MADE else [*map(find_encoder, names)]
    own_names = [encoder.name for encoder in encoders]
    assert kind in MADE or own_names == names, f"{names} make encoders that are called {own_names}"
    for encoder in encoders:
        # no name finds random weights again
        check_encoder(encoder, ENCODER[:-1] if kind == "timm" else ENCODER)
        first, *_, last = pictures = contract.Trial(encoder).pictures()
        alone = [encoder.encode([picture])[0] for picture in (first, last)]
        np.testing.assert_array_equal(encoder.encode(pictures)[[0, -1]], alone)
        assert encoder.encode([]).shape == (0, *encoder.shape)
        with refuses(TypeError, thing="picture", expected="uint8"):
            encoder.encode([np.zeros((9, 9, 3))])


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = EncoderSpec(
        "mean-colour", lambda name, grid: MeanColour(), licence="none", help="tests", options=()
    )
    monkeypatch.setitem(ENCODERS, "mean-colour", kind)


def test_encoder_of_somebodys_own_keeps_the_contract(row: None) -> None:
    check_encoder(MeanColour())


# ---- Encoders that break the contract, each one claim at least

BOTH = threading.Barrier(2)


def changed(**attributes: Any) -> MeanColour:
    """The mean colour with other attributes."""
    return type("Broken", (MeanColour,), attributes)()


def encode(change: Callable[[np.ndarray], Any]) -> MeanColour:
    """The mean colour, whose features are changed."""
    return changed(encode=lambda self, pictures: change(MeanColour.encode(self, pictures)))


def feature(value: Callable[[np.ndarray], Any]) -> MeanColour:
    """Another value of each picture."""
    return changed(feature=lambda self, picture: value(picture))


def kept_on_the_object(self: Any, picture: np.ndarray) -> Any:
    """A feature of the picture that came last, in whatever thread."""
    self.picture = picture
    if threading.current_thread() is not threading.main_thread():
        BOTH.wait()  # until the other thread has a picture too
    return MeanColour.feature(self, self.picture)


COUNT = itertools.count()
BROKEN: dict[str, list[tuple[MeanColour, str, str]]] = {
    "named": [
        (changed(name="a\nb"), "name", "is 'a\\nb'"),
        (changed(shape=3), "shape", "is 3"),
        (changed(shape=(0,)), "shape", "is (0,)"),
    ],
    "features_fit": [
        (encode(list), "encode", "returns a list"),
        (changed(shape=(4,)), "features", "have shape (6, 3)"),
        (encode(np.float64), "features", "have dtype float64"),
        (feature(lambda picture: [np.nan] * 3), "feature of a picture (48, 48, 3)", "not finite"),
    ],
    "pictures_apart": [
        (feature(lambda picture: [1, 2, 3]), "noise and of white", "are equal"),
        (feature(lambda picture: [next(COUNT)] * 3), "picture 0 encoded a second time", "differs"),
        (encode(lambda x: x - x[-1:]), "picture 0 encoded alone", "differs by"),
    ],
    "inputs_unchanged": [
        (feature(lambda x: (x if x.base is None else x.base)[0, 0]), "a read-only view", "differs"),
        (feature(lambda picture: picture.fill(0) or [0, 0, 0]), "picture 0", "has changed"),
    ],
    "threads_apart": [(changed(feature=kept_on_the_object), "another thread", "differs by")],
    "found_by_name": [
        (changed(name="nowhere"), "name", "finds no encoder"),
        (changed(name="histogram"), "shape of the encoder that histogram finds", "is (2101,)"),
        (feature(lambda picture: picture.mean((0, 1))), "encoder that is found", "differs by"),
    ],
}


@each_claim
def test_encoder_that_breaks_a_claim_is_named_with_what_is_wrong(
    claim: contract.Claim, row: None
) -> None:
    for encoder, thing, got in BROKEN[claim.__name__]:
        things = (f"encoder {encoder.name!r}", thing)
        with refuses(ContractError, function="check_encoder", thing=things, got=got):
            check_encoder(encoder, [claim])
