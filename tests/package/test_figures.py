"""The figures of the docs are drawn from what is committed."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
assert spec is not None
assert spec.loader is not None
figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_committed_figure_is_of_the_committed_sources(name: str) -> None:
    """`make docs` draws them again."""
    with Image.open(figures.IMAGES / f"{name}.png") as picture:
        assert picture.text["sources"] == figures.digest(name)
