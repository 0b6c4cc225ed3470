"""Runs as data: trained once for each list of options, and shared by the processes of pytest."""

import hashlib
import os
import shutil
from pathlib import Path

import commands
import pytest

from xpcap.backend import use_backend
from xpcap.data.dataset import Source
from xpcap.data.vocabulary import TOKENISER
from xpcap.models import CaptioningRNN
from xpcap.runs.config import Config
from xpcap.runs.recipe import PRESETS, Recipe


class Runs:
    """Trained runs, in a folder that pytest's processes share and that goes with pytest's others."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        own = factory.getbasetemp()
        self._folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "runs"
        self._folder.mkdir(exist_ok=True)

    def __call__(self, *options: object, name: str = "run") -> Path:
        """A run of few pictures, which `xpcap train` made with these options. Change copies only."""

        key = hashlib.sha256(repr([name, *map(str, options)]).encode()).hexdigest()[:16]
        folder, done = self._folder / key, self._folder / f"{key}.done"
        import filelock

        with filelock.FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
                with pytest.MonkeyPatch.context() as patch, use_backend("numpy"):
                    commands.use_few_pictures(patch)
                    commands.good("train", "--out", folder / name, *options)
                done.touch()
        return folder / name


def config_of(model: CaptioningRNN, max_words: int, source: Source | None = None) -> Config:
    """The config of a run whose model is made in a test."""
    return Config(
        recipe=Recipe().settled(PRESETS["usual"]),
        model=model.config,
        source=source or Source(),
        max_words=max_words,
        tokeniser=TOKENISER,
        data_stamp="",
        python="",
        numpy="",
        backend="",
        code="fast",
    )
