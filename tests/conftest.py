"""Fixtures: the libraries that a test runs on, small vocabularies, a small run, and where real data
is.
"""

import contextlib
import gc
import importlib.util
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import cpu_build
import numpy as np
import pytest
from browser import NAMES, Browser, find_browser
from emulated import device  # noqa: F401 - a fixture
from libraries import BLAS, CUPY, Lib
from new_cells import NEW_CELLS
from runs import Runs

import xpcap
from xpcap.backend import switch
from xpcap.cs231n.verify import Row, verify
from xpcap.layers import CELLS

PACKAGES = ("PIL", "hypothesis", "jinja2", "nltk", "numpydoc")
LACKING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "dog", "runs", "on", "the", "grass"]


def pytest_configure() -> None:
    """Where a GPU has to be tested, one that is not usable is an error with the probe's reason."""
    if os.environ.get("XPCAP_REQUIRE_GPU", "0") != "0" and not CUPY.usable:
        raise pytest.UsageError(f"XPCAP_REQUIRE_GPU: {CUPY.why}")


def pytest_report_header() -> list[str]:
    return [f"left out: test files that import {name}, which is not installed" for name in LACKING]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On a machine with a GPU and few packages, test files that import others are left out."""
    if not LACKING or collection_path.suffix != ".py":
        return None
    imports = rf"^(import|from) ({'|'.join(LACKING)})\b"
    return bool(re.search(imports, collection_path.read_text("utf-8"), re.MULTILINE)) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu need a device: skipped with the probe's own reason where there is none."""
    if not CUPY.usable:
        skip = pytest.mark.skip(reason=CUPY.reason)
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What was collected stays: garbage collections need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(
    params=["numpy", "readonly", "emulated", pytest.param("cupy", marks=pytest.mark.gpu)]
)
def lib(request: pytest.FixtureRequest) -> Any:
    """NumPy, NumPy with read-only inputs, the emulated device, and CuPy (marker gpu); that backend
    is in force meanwhile.
    """
    if request.param == "emulated":
        request.getfixturevalue("device")
    with xpcap.use_backend("cupy" if request.param in ("emulated", "cupy") else "numpy"):
        yield Lib(request.param)


@pytest.fixture(scope="session")
def open_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if os.name != "posix" or program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: no browser to look at the page with")
    with Browser(program, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def browser(open_browser: Browser) -> Browser:
    """One that has asked for nothing yet."""
    open_browser.requested.clear()
    return open_browser


THREADS = max((library.num_threads for library in BLAS.lib_controllers), default=1)
SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Where pytest runs in several processes side by side, BLAS keeps to one thread in each."""
    with BLAS.limit(limits=1) if SIDE_BY_SIDE else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def all_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """But for tests marked `threads`."""
    with (
        BLAS.limit(limits=THREADS)
        if SIDE_BY_SIDE and "threads" in request.keywords
        else contextlib.nullcontext()
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_terminal() -> None:
    """Signals that nohup or a shell's background ignores reach the programs that tests start.

    A hang-up still does not end the tests: a handler is not passed on, the lack of one is.
    """
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", lambda *_: None)):
        signum = getattr(signal, name, None)  # no SIGHUP on Windows
        if signum is not None and signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)


@pytest.fixture(scope="session", autouse=True)
def no_power_failure() -> Iterator[None]:
    """Nothing waits for the disk, which is a quarter of a small training's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def default_hang_up() -> Iterator[None]:
    """SIGHUP ends this process, as it does where neither nohup nor the tests take it."""
    if not hasattr(signal, "SIGHUP"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run in blocks of few threads: the CPU build switches between threads at each barrier,
    which is most of a step's time. tests/ops holds them to their equations in a GPU's blocks.
    """
    monkeypatch.setattr("xpcap.ops.device.CUDA", cpu_build.FEW)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def new_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of one's own are in CELLS."""
    for name, cell in NEW_CELLS.items():
        monkeypatch.setitem(CELLS, name, cell)


@pytest.fixture
def word_to_idx() -> dict[str, int]:
    return {word: i for i, word in enumerate(WORDS)}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that XPCAP_DATA names, with flickr8k/ and coco_mini/ in it."""
    folder = os.environ.get("XPCAP_DATA")
    if not folder:
        pytest.skip("XPCAP_DATA is not set: no real captions to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def verified() -> list[Row]:
    """What `verify` finds on NumPy, worked out once. NumPy's legacy stream is as it was."""
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    with xpcap.use_backend("numpy"):
        rows = list(verify())
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    return rows


@pytest.fixture
def verify_once(verified: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command `verify` tells what is known already."""
    monkeypatch.setattr("xpcap.cli.verify.run_verify", lambda: iter(verified))


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Generated pictures by the dozen, and a folder of its own to run in."""
    commands.use_few_pictures(monkeypatch)
    monkeypatch.delenv("XPCAP_BACKEND", raising=False)
    monkeypatch.setattr(switch, "_active", None)  # as in a new process: the environment decides
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """``train_once(*options)``: a trained run, to read or to copy."""
    return Runs(tmp_path_factory)


@pytest.fixture(scope="session")
def trained(train_once: Runs) -> Path:
    """A run; tests get copies."""
    return train_once(*commands.SMALL, "--feature-scaling", "standardize")


@pytest.fixture(scope="session")
def reranked(train_once: Runs) -> Path:
    """A run that reranks captions by training photos that look alike."""
    return train_once("--neighbours", *commands.SMALL)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))
