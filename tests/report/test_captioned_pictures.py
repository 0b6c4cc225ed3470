"""Curves as charts, and captions below their pictures in a PNG."""

import re

import numpy as np
import pytest
from pages import HISTORY, NASTY, WITHOUT_VAL, decode, photo, scene
from refusals import refuses

from xpcap.report import CaptionedPicture, draw_captions
from xpcap.report.captioned_pictures import MAX_LINES, wrap
from xpcap.report.curves import BOTTOM, TOP, gradient_chart, training_charts


def heights(path: str) -> np.ndarray:
    """Of the points of a line that is drawn in a chart."""
    return np.array([float(point.split()[1]) for point in path[1:].split("L")])


def test_a_chart_has_the_values_in_proportion_and_the_best_epoch_in_a_ring() -> None:
    loss, perplexity = training_charts(HISTORY)
    (_, _, train, _), (name, style, val, dots) = loss.lines
    values = [record["val_loss"] for record in HISTORY]
    slope, start = np.polyfit(values, heights(val), 1)
    np.testing.assert_allclose(slope * np.array(values) + start, heights(val), atol=0.06)
    assert slope < 0  # upwards
    np.testing.assert_allclose(
        slope * np.array([record["train_loss"] for record in HISTORY]) + start,
        heights(train),
        atol=0.1,
    )
    assert (name, style, dots.count("M")) == ("val", "val", 8)
    assert loss.ring is not None
    assert f"{loss.ring[0]:g} {loss.ring[1]:g}" == val[1:].split("L")[3]
    assert loss.ring[2] == "lowest, epoch 4"
    assert [text for _, text in loss.across] == [*"12345678"]
    for at, text in loss.upward:
        assert at == pytest.approx(slope * float(text) + start, abs=0.1)
    assert loss.about.endswith(
        "val loss from 16.00 after epoch 1 to 9.88 after epoch 8, lowest 7.75 after epoch 4"
    )
    assert perplexity.about == (
        "val perplexity from 9.00 after epoch 1 to 9.00 after epoch 8, lowest 5.67 after epoch 3"
    )


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, 2.0, 3.0], ["1.0", "1.5", "2.0", "2.5", "3.0"]),
        ([0.0, 0.0, 0.0], ["-0.4", "-0.2", "0.0", "0.2", "0.4"]),
        ([5.0, 5.0], ["4.998", "4.999", "5.000", "5.001", "5.002"]),
        ([2e7, 9e7, float("inf"), float("nan")], ["2e+07", "4e+07", "6e+07", "8e+07"]),
        ([0.0438, 0.0438], ["0.04378", "0.04379", "0.0438", "0.04381", "0.04382"]),
        ([1e-7, 3e-7], ["1e-07", "1.5e-07", "2e-07", "2.5e-07", "3e-07"]),
    ],
)
def test_an_axis_has_round_values(values: list[float], texts: list[str]) -> None:
    history = [{"epoch": 10 * i, "val_loss": value} for i, value in enumerate(values, start=1)]
    (chart,) = training_charts(history)
    assert [text for _, text in chart.upward] == texts
    assert all(TOP <= at <= BOTTOM for at, _ in chart.upward)
    assert re.fullmatch(r"M[\d. L]+", chart.lines[0][2])
    assert chart.across[0][1] == "10"


def test_curves_are_there_for_what_was_measured() -> None:
    assert [chart.title for chart in training_charts(WITHOUT_VAL)] == ["Loss per caption"]
    assert training_charts(WITHOUT_VAL)[0].ring is None
    assert training_charts(HISTORY[:1]) == []
    scored = [{**record, "val_cider": 0.1, "train_reward": 0.2} for record in HISTORY[:2]]
    cider = training_charts([*WITHOUT_VAL[:3], *scored])[1:][-1]
    assert [line[:2] for line in cider.lines] == [
        ("train, sampled", "train"),
        ("val, greedy", "val"),
    ]
    long = [{"epoch": i + 1, "train_loss": 1.0} for i in range(500)]
    assert training_charts(long)[0].lines[0][3] == ""  # dots would touch


def test_gradients_are_drawn_in_decades() -> None:
    chart = gradient_chart({"mine": [1.0, 0.1, 0.01, 0.0], "untrained": [1.0] * 4}, "words")
    assert [text for _, text in chart.upward] == ["1\xa0%", "10\xa0%", "100\xa0%"]
    mine, other = (heights(line[2]) for line in chart.lines)
    np.testing.assert_allclose(np.diff(mine), (mine[-1] - mine[0]) / 2)  # a share of 0 is not drawn
    assert np.ptp(other) == 0
    assert [line[1] for line in chart.lines] == ["val", "train"]


def test_the_last_of_too_many_lines_is_the_longest_that_fits_with_an_ellipsis() -> None:
    for most in (1, 2, 7, 100):
        word = ("abcdefghij" * 10)[:most]
        lines = wrap(f"{word} " * 20, len, most)
        assert lines == [*[word] * (MAX_LINES - 1), f"{word[: max(0, most - 2)]} …"]


@pytest.mark.parametrize("count", [2, 7])
def test_captions_png_grows_with_its_pictures(count: int) -> None:
    pictures = [scene(), photo(0, 300, 200), photo(1, 20, 900), photo(2, 900, 20)] * 2
    captions = ["", NASTY, "a $x^2$ dog"] * (count // 3) + ["a"] * (count % 3)
    png = draw_captions([*map(CaptionedPicture, pictures, captions)])
    height, width, _ = decode(png).shape
    assert width == 330 * min(3, count)
    assert abs(height - 300 * -(-count // 3)) < 90 * -(-count // 3)


def test_captions_of_any_length_overlap_nothing() -> None:
    """Neighbours' texts leave a white gutter between them, and the last line leaves a white edge
    below it.
    """
    long = ["W" * 200, "word " * 80, "i" * 700]
    png = draw_captions([*map(CaptionedPicture, [photo(0, 60, 60)] * 3, long, long[::-1])])
    picture = decode(png)
    for x in (330, 660):
        assert (picture[:, x - 6 : x + 6] == 255).all()
    assert (picture[-8:] == 255).all()
    assert (picture[:, :6] == 255).all()
    assert (picture[:, -6:] == 255).all()


def test_without_a_picture_nothing_is_drawn() -> None:
    with refuses(ValueError, "there is no picture"):
        draw_captions([])
