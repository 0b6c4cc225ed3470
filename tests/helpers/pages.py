"""Pictures, captions, scores and a history for a page, and a page read back."""

import io
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.captioning.pages import Gallery, render_page
from xpcap.captioning.scores import Result, Scores
from xpcap.drawings.scenes import make_scene, paint
from xpcap.metrics import Hub, Metric, Scored
from xpcap.runs.records import Hypothesis, PictureCaption

NASTY = "<script>alert('x')</script> & \"quoted\" 'single' </style> שלום 🐕 \u202e {{ 7 * 7 }}"
HISTORY = [
    {
        "epoch": e,
        "iteration": 31 * e,
        "learning_rate": 0.001 * 0.9**e,
        "train_loss": 20 / e + 1,
        "train_accuracy": 0.5,
        "val_loss": 15 / e + e,
        "val_perplexity": 8 / e + e,
        "val_accuracy": 0.4,
    }
    for e in range(1, 9)
]
WITHOUT_VAL = [
    {key: value for key, value in record.items() if not key.startswith("val")} for record in HISTORY
]
SAID = [("a", 0.97), ("red", 0.5), ("circle", 0.03)]


def photo(seed: int, height: int = 480, width: int = 640) -> np.ndarray:
    """Something with the detail of a photograph."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(
        np.asarray(coarse, np.float64) + rng.normal(0, 12, (height, width, 3)), 0, 255
    ).astype(np.uint8)


def scene(i: int = 0) -> np.ndarray:
    return paint(make_scene("train", i, seed=0))


def decode(png: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def card(
    name: str,
    picture: np.ndarray | None,
    words: Sequence[tuple[str, float]] = (),
    references: Sequence[str] = (),
    reranked: Sequence[tuple[str, float]] = (),
    **more: Any,
) -> PictureCaption:
    """A captioned picture, from its words with their probabilities."""
    said, likely = [word for word, _ in words], [p for _, p in words]
    n_best = [Hypothesis(*one) for one in reranked]
    caption = PictureCaption(name, " ".join(said), likely, list(references), n_best, words=said)
    return replace(caption, picture=picture, **more)


def scores(*titles: str, human: bool = True, **text: str) -> Scores:
    """Scores with these titles; `text` has the plain words and protocols of all."""
    scored = Scored({"cider": 0.17}, [])
    text = {"meaning": "", "protocol": "", **text}
    hub = Hub("cider", "cider", "CIDEr-D")
    rows = [Metric(title, title, **text, score=lambda *_: scored, hub=hub) for title in titles]
    results = [Result(row, scored, scored if human else None) for row in rows]
    return Scores("val", [], results, 1.0, human_protocol=text["protocol"])


def write_cards(path: Path, *cards: PictureCaption, **more: Any) -> "Page":
    """A page that opens with these, read back."""
    path.write_bytes(render_page("t", opening=Gallery("g", "", iter(cards)), **more))
    return Page(path)


class Page(HTMLParser):
    """A page read back: its elements, and the text that is in them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        wanted = {key.rstrip("_"): value for key, value in wanted.items()}
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and wanted.items() <= attrs.items()
        ]
