"""Runs as objects: their config.json, and what fits them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

pytest.importorskip("filelock")

from xpcap.data.features import FeatureScaling
from xpcap.errors import DataError
from xpcap.runs.config import Config
from xpcap.runs.folder import CONFIG
from xpcap.runs.run import Inputs

ONES = np.ones(4, np.float32)
SCALING = FeatureScaling(ONES, ONES)
OF_RUN = Inputs("histogram", (9, 4), SCALING)


def test_a_config_is_written_as_it_was_read(run: Path) -> None:
    text = (run / CONFIG).read_text()
    Config.read(run).write(run)
    assert (run / CONFIG).read_text() == text


def test_a_run_of_a_cell_that_a_program_adds_is_opened_by_that_program(run: Path) -> None:
    config = {**json.loads((run / CONFIG).read_text()), "cell": "nobodys"}
    (run / CONFIG).write_text(json.dumps(config))
    with refuses(
        DataError,
        thing="cell",
        got="is 'nobodys'",
        expected="lstm",
        cause="trained by a program that adds this cell to CELLS? Run that program",
    ):
        Config.read(run)


@pytest.mark.parametrize(
    ("other", "misfit"),
    [
        (OF_RUN, ""),
        (replace(OF_RUN, scaling=FeatureScaling(*map(np.copy, SCALING))), ""),
        (Inputs("histogram", (9, 4)), ""),  # data that is still to be scaled
        (Inputs("histogram", (9, 2)), "features of size 9 x 2 instead of 9 x 4"),
        (Inputs("histogram", (4,)), "features of size 4 instead of 9 x 4"),
        (
            Inputs("onnx:b.onnx", (9, 4)),
            "features by the encoder 'onnx:b.onnx' instead of the encoder 'histogram'",
        ),
        (
            Inputs(None, (9, 4)),
            "features by an unknown encoder instead of the encoder 'histogram'",
        ),
        (
            replace(OF_RUN, scaling=SCALING._replace(scale=2 * ONES)),
            "features with another scaling",
        ),
        (replace(OF_RUN, scaling=FeatureScaling()), "features with another scaling"),
    ],
)
def test_features_fit_that_came_the_same_way_or_have_some_of_it_to_come(
    other: Any, misfit: str
) -> None:
    assert OF_RUN.misfit(other) == misfit
