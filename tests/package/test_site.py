"""The site of docs/ and of the docstrings builds without a warning, and holds all of them."""

import re
import shutil
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


def build(folder: Path, docs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-d"]
    return subprocess.run(
        [*command, folder / "doctrees", docs, folder / "site"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Sphinx warns of a page in a folder that the sidebar lacks, of a link or a role to
    nothing, of a formula that it cannot read, and of a docstring out of form.
    """
    folder = tmp_path_factory.mktemp("site")
    docs = shutil.copytree(ROOT / "docs", folder / "docs")
    result = build(folder, docs)
    assert result.returncode == 0, result.stderr
    return folder / "site"


def test_the_sidebar_has_every_page_for_readers_and_contributing_those_for_developers(
    site: Path,
) -> None:
    menu = (site / "index.html").read_text(encoding="utf-8").split('class="sidebar-tree"')[1]
    listed = set(re.findall(r'href="([\w/.-]+)\.html"', menu.split("</aside>")[0]))
    docs = site.parent / "docs"
    pages = {
        path.relative_to(docs).with_suffix("").as_posix()
        for pattern in ("*.md", "*.ipynb", "*.rst")
        for path in docs.rglob(pattern)
    }
    for_developers = {page for page in pages if page.startswith("develop/")}
    assert listed == pages - for_developers - {"index"}
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(docs/(develop/[\w/-]+)\.md", contributing))
    assert linked == for_developers


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


def test_mathematics_code_and_links_out_of_the_docs_are_read(site: Path) -> None:
    quoted = (site / "explain" / "plain-lstm.html").read_text(encoding="utf-8")
    assert 'highlight-python notranslate"' in quoted
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"' in (
        site / "explain" / "backward.html"
    ).read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'href="(?:\.\./)+(?:xpcap|tests|README|SECURITY)', text), page
        assert "```" not in text or page.name == "index.html", page
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', text), page


def test_a_fault_of_a_page_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs" / "_static", docs / "_static")
    shutil.copy(ROOT / "docs" / "conf.py", docs)
    (docs / "index.md").write_text("# Pages\n")
    for name in ("xpcap", "layers", "optim", "checks"):
        page = docs / "reference" / "api" / f"{name}.rst"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{name}\n======\n")
    (docs / "one.md").write_text(
        "# One\n\n$a_t$, [code](../xpcap/optim.py), [all](index.md#pages)\n"
    )
    assert build(tmp_path, docs).stderr == ""
    for fault, complaint in {
        "[there](two.md)": "two.md",
        "[there](index.md#nowhere)": "nowhere",
        r"$\nosuch x$": "nosuch",
        "{py:func}`xpcap.lost`": "xpcap.lost",
    }.items():
        (docs / "one.md").write_text(f"# One\n\n{fault}\n")
        result = build(tmp_path, docs)
        assert result.returncode == 1
        assert complaint in result.stderr
    (docs / "one.md").write_text("# One\n")
    (docs / "lost").mkdir()
    (docs / "lost" / "page.md").write_text("# Lost\n")
    assert "lost/page.md" in build(tmp_path, docs).stderr
