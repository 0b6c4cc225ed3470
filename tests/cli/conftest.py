"""A second run, for what tells two apart."""

from pathlib import Path

import pytest
from commands import SMALL
from runs import Runs


@pytest.fixture(scope="session")
def gru(train_once: Runs) -> Path:
    """A GRU trained on the data of `run`; change copies only."""
    return train_once("--cell", "gru", *SMALL, "--feature-scaling", "standardize", name="plain-gru")
