"""Fixtures: a runtime for exported pages, a browser, and a page."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NAMES, Browser, find_browser
from web_pages import tar

from xpcap.export import export_web, web_folder
from xpcap.export.web_folder import RUNTIME_PATHS, TARBALL
from xpcap.runs.run import open_run

ROOT = Path(__file__).parents[2]
CHROMIUM = find_browser()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for npm's package, as the .tgz that npm pack leaves."""
    contents = {name: f"// {name}".encode() for name in web_folder.SHA256}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(web_folder, "SHA256", digests)
    return tar(tmp_path / TARBALL, contents)


@pytest.fixture(scope="package")
def real_runtime() -> Path:
    """npm's package, in the checkout or where XPCAP_RUNTIME says."""
    named = os.environ.get("XPCAP_RUNTIME") or ROOT / TARBALL
    paths = map(Path, (named, *(ROOT / path for path in RUNTIME_PATHS)))
    runtime = next((path for path in paths if path.exists()), None)
    if runtime is None:
        pytest.skip(f"no {TARBALL} in the checkout, and XPCAP_RUNTIME names none")
    return runtime


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with Browser(CHROMIUM, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="package")
def page_of_reranked(
    reranked: Path, real_runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "reranked"
    export_web(open_run(reranked), folder, runtime=real_runtime, weights="float32")
    return folder
