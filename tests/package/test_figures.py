"""The figures of the docs are drawn from what is committed."""

import csv
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


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_drawn_alike_each_time(name: str, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png", tmp_path / "again.png"
    for path in drawn:
        figures.draw(name, path)
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    with Image.open(drawn[0]) as picture, Image.open(figures.IMAGES / f"{name}.png") as kept:
        assert picture.size == kept.size


@pytest.mark.parametrize("path", sorted(figures.RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_results_name_their_date_and_machine(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert None not in row, f"{path.name}: a row longer than the header: {row}"
        assert None not in row.values(), f"{path.name}: a row shorter than the header: {row}"
        assert row["date"]
        assert row["machine"]
        assert row["versions"]
