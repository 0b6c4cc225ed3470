"""What is asked of each kind of encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoder_checks import check_encoder, check_name, pictures
from refusals import refuses

from xpcap.encoders import ENCODERS, Encoder, TimmEncoder, find_encoder
from xpcap.errors import DataError
from xpcap.files.onnx_file import Graph

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


@pytest.mark.parametrize("kind", ENCODERS)
def test_features_are_the_pictures_to_the_bit_and_what_is_no_picture_is_refused(
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
        check_encoder(encoder)
        if kind != "timm":  # no name finds random weights again
            check_name(encoder)
        first, *_, last = given = pictures()
        alone = [encoder.encode([picture])[0] for picture in (first, last)]
        np.testing.assert_array_equal(encoder.encode(given)[[0, -1]], alone)
        assert encoder.encode([]).shape == (0, *encoder.shape)
        with refuses(TypeError, "picture", "uint8"):
            encoder.encode([np.zeros((9, 9, 3))])
