"""The site of docs/ and of the docstrings builds without a warning, and holds all of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import xpcap
from xpcap import layers

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
for package in ("sphinx", "myst_nb", "numpydoc", "furo"):
    pytest.importorskip(package, reason="the site is not built: the docs extra is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Sphinx warns of a page in a folder that the sidebar lacks, of a link or a role to
    nothing, of a formula that it cannot read, and of a docstring out of form.
    """
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning"]
    built = subprocess.run(
        [*command, "-d", folder / "doctrees", ROOT / "docs", folder / "site"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert built.returncode == 0, built.stderr
    return folder / "site"


def test_every_public_name_has_an_entry_with_its_parameters(site: Path) -> None:
    pages = {
        name: (site / "reference" / "api" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("xpcap", "layers", "optim")
    }
    entries = set(re.findall(r'<dt class="sig[^>]* id="([\w.]+)"', "".join(pages.values())))
    wanted = {f"xpcap.{name}" for name in {*xpcap.__all__} - {"__version__"}}
    wanted |= {f"xpcap.layers.{name}" for name in layers.__all__ if name != "CELLS"}
    assert wanted | {"xpcap.optim.adam", "xpcap.CaptioningRNN.sample"} <= entries
    shapes = r"Shapes</p>\s*<div[^>]*>.*<pre>.*Wh \(H, 4H\).*\n-&gt; h \(N, T, H\)"
    lstm = pages["layers"].partition('id="xpcap.layers.lstm_forward"')[2].partition("</dl>")[0]
    assert re.search(shapes, lstm)
    assert "Raises TypeError unless floats share one dtype" in lstm
    assert "Alias for field" not in pages["layers"]


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', text), page
