"""What goes on a run's page: which captions are best and worst, whose references and pictures stand
beside them, and what is missing.
"""

import dataclasses
import html
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import xpcap.data
from xpcap import CaptioningRNN
from xpcap.captioning.captions import caption_files, caption_run
from xpcap.captioning.pages import caption_page, picture_finder, write_run_page
from xpcap.captioning.scores import Scores, evaluate_run
from xpcap.data import CaptionData, Source, hdf5, open_data, tokenize, write_dataset
from xpcap.drawings import GENERATOR, generate, write_pictures
from xpcap.encoders import read_picture
from xpcap.metrics import METRICS
from xpcap.models import Beam
from xpcap.prepare.names import PictureFolder
from xpcap.runs.decoder import RerankedBeam
from xpcap.runs.explanation import decision
from xpcap.runs.recipe import Recipe
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import Run
from xpcap.trainer.train import train_run

SMALL: dict[str, Any] = {
    "hidden": 16,
    "wordvec": 8,
    "epochs": 2,
    "score_epochs": 0,
    "feature_scaling": "none",
}


class Made(NamedTuple):
    """A data set, a run on it, what its captions are worth, and its page."""

    data: Path
    run: Run
    scores: Scores
    page: str

    @property
    def photos(self) -> Path:
        """The val pictures, one of them missing, in a folder that the data set remembers."""
        return self.data.parent / "photos"

    def captions(self, **options: Any) -> dict[str, PictureCaption]:
        """Captions of the val pictures, by name."""
        found = caption_run(self.run, count=40, **options)
        return {caption.image: caption for caption in found}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run whose captions are reranked."""
    folder = tmp_path_factory.mktemp("made")
    data = generate(0, train=60, val=40)
    write_pictures(folder / "photos", data, "val")
    (folder / "photos" / "val00000.png").unlink()
    data.source = Source(encoder="histogram", pictures=str(folder / "photos"))
    write_dataset(folder / "data.h5", data)
    run, scores = train_run(Recipe(data=folder / "data.h5", out=folder / "run", **SMALL))
    assert scores is not None
    return Made(folder / "data.h5", run, scores, (run.path / "index.html").read_text())


class Shown(NamedTuple):
    """A card of a page: what a reader sees."""

    name: str
    caption: str
    probabilities: list[float]
    references: list[str]
    score_text: str
    has_picture: bool
    hypotheses: list[tuple[str, str]]


def galleries(page: str) -> dict[str, list[Shown]]:
    found = {}
    for section in re.findall(r'<section id="gallery-\d+">(.*?)</section>', page, re.DOTALL):
        cards = []
        for card in re.findall(r"<article>(.*?)</article>", section, re.DOTALL):
            words = re.findall(r'<span class="word" style="--p: ([\d.]+)"[^>]*>(.*?)</span>', card)
            lists = re.findall(r'<ul class="references"[^>]*>(.*?)</ul>', card, re.DOTALL)
            cards.append(
                Shown(
                    name=re.findall(r"<h3[^>]*>(.*?)</h3>", card)[0],
                    caption=" ".join(word for _, word in words),
                    probabilities=[float(p) for p, _ in words],
                    references=[
                        html.unescape(text)
                        for text in re.findall(r"<li[^>]*>(.*?)</li>", "".join(lists))
                    ],
                    score_text=re.findall(r"</h3>\s*<p[^>]*>(.*?)</p>", card)[0],
                    has_picture="<img" in card,
                    hypotheses=re.findall(
                        r"<li><bdi>(.*?)</bdi> <span>(.*?)</span></li>",
                        "".join(re.findall(r'<ol class="hypotheses".*?</ol>', card, re.DOTALL)),
                    ),
                )
            )
        found[re.findall(r"<h2[^>]*>(.*?)</h2>", section)[0]] = cards
    return found


@pytest.mark.parametrize("neighbours", [True, False])
def test_galleries_show_the_best_the_worst_and_some_others_with_what_belongs_to_them(
    neighbours: bool, made: Made, tmp_path: Path
) -> None:
    """Below captions that are reranked, the best of the reranking; below greedy ones, a beam's."""
    if not neighbours:
        recipe = Recipe(made.data, out=tmp_path / "run", neighbours=False, **SMALL)
        run, scores = train_run(recipe)
        assert scores is not None
        made = Made(made.data, run, scores, (run.path / "index.html").read_text())
    data, said = open_data(made.data), made.scores.to_json()["captions"]
    images = data.split("val").images
    references = {images[i]: texts for i, texts in data.references("val").items()}
    bleu = {
        name: METRICS[0]
        .score([[*map(tokenize, references[name])]], [said[name].split()])
        .pictures[0]
        for name in images
    }
    shown = galleries(made.page)
    assert list(shown) == ["Best", "Worst", "Random"]
    assert {len(cards) for cards in shown.values()} == {9}
    ordered = sorted(bleu.values())
    assert [bleu[card.name] for card in shown["Best"]] == ordered[::-1][:9]
    assert [bleu[card.name] for card in shown["Worst"]] == ordered[:9]
    assert len({card.name for card in shown["Random"]}) == 9
    for card in (card for cards in shown.values() for card in cards):
        assert card.caption == said[card.name]
        assert card.references == references[card.name]
        assert card.score_text == f"sentence BLEU-4 {bleu[card.name]:.2f}"
        assert card.has_picture == (card.name != "val00000.png")
        assert not card.has_picture or f'alt="{card.caption}"' in made.page
    policy = Beam(5, n_best=5, max_length=made.run.config.max_words)
    if neighbours:
        assert made.run.reranker is not None
        policy = RerankedBeam(10, n_best=5, no_stutter=made.run.reranker.no_stutter)
    greedy, beams = made.captions(), made.captions(policy=policy)
    for card in shown["Random"]:
        np.testing.assert_allclose(card.probabilities, greedy[card.name].probabilities, atol=6e-4)
        assert card.hypotheses == [
            (one.caption or "(nothing)", f"{one.log_probability:.2f}")
            for one in beams[card.name].n_best
        ]
        assert len(set(card.hypotheses)) == 5


def test_cards_explain_ranked_captions_by_names_where_training_photos_are_not_at_hand(
    made: Made,
) -> None:
    page = made.page.partition('<section id="gallery-1"')[2]
    cards = re.findall(r"<article>(.*?)</article>", page, re.DOTALL)
    said = made.captions(explain=True)
    assert len(cards) == 27
    for card in cards:
        reasons = said[re.findall(r"<h3[^>]*>(.*?)</h3>", card)[0]].explanation
        assert reasons is not None
        assert decision(reasons) in html.unescape(card)
        names = re.findall(r'<span class="name"><bdi>(.*?)</bdi>', card)
        assert names == [near.image for near in reasons.neighbours[:5]]
    assert '<use href="#photo' not in page


def test_the_page_opens_with_captions_spread_over_the_split_and_three_of_all_scores(
    made: Made,
) -> None:
    opening = made.page.partition('<section id="headline">')[0]
    names = re.findall(r"<h3[^>]*>(.*?)</h3>", opening)
    assert names == [caption.image for caption in made.scores.spread(count=4)]
    assert "What a beam search found" not in opening
    tiles = re.findall(
        r'<dt>(.*?)</dt>\s*<dd class="value">(\S+) <span class="human">people (\S+)</span>',
        made.page,
    )
    scores, human = made.scores.scores, made.scores.human_scores
    assert tiles == [
        (title, f"{scores[name]:.3f}", f"{human[name]:.3f}")
        for title, name in (
            ("distinct captions", "distinct"),
            ("CIDEr-D", "cider"),
            ("BLEU-4", "bleu4"),
        )
    ]
    page = html.unescape(made.page)
    assert all(text in page for row in made.scores.rows() for text in row)
    plain_before_protocol = r"perplexity</dt>.*?equally likely next words.*?log-likelihood"
    assert re.search(plain_before_protocol, page, re.DOTALL)


def test_pictures_of_files_are_described_by_their_captions(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 4):
        shutil.copy(made.photos / f"val0000{number}.png", folder)
    captions, _ = caption_files(made.run, str(folder), show=True)
    page = caption_page(made.run, iter(captions)).decode()
    said = [html.unescape(alt) for alt in re.findall(r'<img [^>]*alt="(.*?)">', page)]
    assert said == [caption.caption or f"Picture {caption.image}" for caption in captions]
    assert len(said) == 3


def test_a_run_on_data_without_val_has_a_page_of_curves(made: Made, tmp_path: Path) -> None:
    data = open_data(made.data)
    train = CaptionData(data.vocabulary, {"train": data.split("train")}, source=data.source)
    write_dataset(tmp_path / "train.h5", train)
    run, scores = train_run(
        Recipe(tmp_path / "train.h5", out=tmp_path / "run", neighbours=False, **SMALL)
    )
    assert scores is None
    page = (run.path / "index.html").read_text()
    assert galleries(page) == {}
    assert "Training" in page


def test_few_pictures_make_short_galleries(made: Made, tmp_path: Path) -> None:
    data = open_data(made.data)
    val = data.split("val")
    first = dataclasses.replace(
        val,
        captions=val.captions[:5],
        image_idxs=val.image_idxs[:5],
        features=val.features[:1],
        images=["../secret.png"],
        text=list(val.text or [])[:5],
    )
    shutil.copy(made.photos / "val00001.png", made.photos.parent / "secret.png")
    data = dataclasses.replace(data, splits={**data.splits, "val": first})
    (tmp_path / "run").mkdir()
    run = dataclasses.replace(made.run, path=tmp_path / "run")
    write_run_page(run, [], evaluate_run(run, data), data)
    shown = galleries((run.path / "index.html").read_text())
    assert {title: len(cards) for title, cards in shown.items()} == {
        "Best": 1,
        "Worst": 1,
        "Random": 1,
    }
    assert not shown["Best"][0].has_picture  # it lies outside the folder of pictures


def test_a_page_finds_what_prepare_finds_and_nothing_outside(made: Made, tmp_path: Path) -> None:
    """Links in the folder of pictures lead to further ones."""
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    photos.mkdir()
    shutil.copytree(made.photos, elsewhere)
    (photos / "link").symlink_to(elsewhere)
    (name,) = (name for name in PictureFolder(photos).pictures if "val00001" in name)
    find = picture_finder(made.run, Source(pictures=str(photos)))
    np.testing.assert_array_equal(find(name), read_picture(elsewhere / "val00001.png"))
    np.testing.assert_array_equal(find(str(photos / name)), find(name))
    for outside in ("../elsewhere/val00001.png", str(elsewhere / "val00001.png"), "link/../x.png"):
        assert find(outside) is None
    drawn = picture_finder(made.run, Source(generated=GENERATOR, seed=0))
    assert drawn("val00001.png") is not None
    assert drawn("another run: val00001.png") is None  # not the picture of its namesake


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.parametrize("is_generated", [False, True], ids=["a file", "generated"])
def test_one_training_opens_and_stamps_data_and_captions_a_picture_once(
    is_generated: bool, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, scores and page share the open data set and the captions that were scored."""
    counts: Counter[str] = Counter()

    def count(place: Any, name: str) -> None:
        real = getattr(place, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            searched = name == "decode" and args[2].n_best  # for the page alone
            counts[name] += 0 if searched else len(args[1]) if name == "decode" else 1
            return real(*args, **kwargs)

        monkeypatch.setattr(place, name, counted)

    count(xpcap.data, "read_dataset")
    count(hdf5, "fingerprint_of")
    count(CaptioningRNN, "decode")
    data = None if is_generated else made.data
    run, _ = train_run(Recipe(data, out=Path("run"), neighbours=False, **SMALL))
    opened = {} if is_generated else {"read_dataset": 1}
    assert counts == {**opened, "fingerprint_of": 1, "decode": 14 if is_generated else 40}
    if is_generated:
        assert open_data(run.path / "data.h5").fingerprint == run.config.data_stamp
