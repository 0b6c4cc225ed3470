"""What goes on a run's page: which captions are best and worst, whose references and pictures stand
beside them, and what is missing.
"""

import dataclasses
import html
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import commands
import numpy as np
import pytest
from programs import program

Image = pytest.importorskip("PIL.Image")

import xpcap.data  # noqa: E402 - after the skip
from xpcap import CaptioningRNN, Watcher, runs  # noqa: E402
from xpcap.data import (  # noqa: E402
    CaptionData,
    Source,
    hdf5,
    open_data,
    tokenize,
    write_dataset,
)
from xpcap.encoders import read_picture  # noqa: E402
from xpcap.metrics import METRICS  # noqa: E402
from xpcap.models import Beam  # noqa: E402
from xpcap.prepare.names import PictureFolder  # noqa: E402
from xpcap.runs import (  # noqa: E402
    Recipe,
    evaluate_run,
    open_run,
    picture_finder,
    train_run,
)
from xpcap.runs.explanation import decision  # noqa: E402
from xpcap.shapes import GENERATOR, generate, write_pictures  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "hidden": 16,
    "wordvec": 8,
    "epochs": 2,
    "score_epochs": 0,
    "feature_scaling": "none",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset file whose val pictures lie in a folder that it remembers, one of them missing, and
    a run on it.
    """
    folder = tmp_path_factory.mktemp("made")
    data = generate(0, train=60, val=40)
    write_pictures(folder / "photos", data, "val")
    (folder / "photos" / "val00000.png").unlink()
    data.source = Source(encoder="histogram", pictures=str(folder / "photos"))
    write_dataset(folder / "data.h5", data)
    train_run(Recipe(data=folder / "data.h5", out=folder / "run", **SMALL))
    return folder


class Shown(NamedTuple):
    """A card of a page: what a reader sees."""

    name: str
    caption: str
    probabilities: list[float]
    references: list[str]
    note: str
    has_picture: bool
    ranked: list[tuple[str, str]]


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
                    note=re.findall(r"</h3>\s*<p[^>]*>(.*?)</p>", card)[0],
                    has_picture="<img" in card,
                    ranked=re.findall(
                        r"<li><bdi>(.*?)</bdi> <span>(.*?)</span></li>",
                        "".join(re.findall(r'<ol class="ranked".*?</ol>', card, re.DOTALL)),
                    ),
                )
            )
        found[re.findall(r"<h2[^>]*>(.*?)</h2>", section)[0]] = cards
    return found


@pytest.mark.parametrize("neighbours", [True, False])
def test_galleries_show_the_best_the_worst_and_some_others_with_what_belongs_to_them(
    neighbours: bool, made: Path, tmp_path: Path
) -> None:
    """Below captions that are ranked, the best of the ranking; below greedy ones, a beam's."""
    folder = made / "run"
    if not neighbours:
        folder = tmp_path / "run"
        train_run(Recipe(made / "data.h5", out=folder, neighbours=False, **SMALL))
    run, data = open_run(folder), open_data(made / "data.h5")
    said = evaluate_run(run).to_json()["captions"]
    images = data.split("val").images
    references = {images[i]: texts for i, texts in data.references("val").items()}
    scores = {
        name: METRICS[0]
        .score([[*map(tokenize, references[name])]], [said[name].split()])
        .pictures[0]
        for name in images
    }
    shown = galleries((folder / "index.html").read_text())
    assert list(shown) == ["Best", "Worst", "Random"]
    assert {len(cards) for cards in shown.values()} == {9}
    ranked = sorted(scores.values())
    assert [scores[card.name] for card in shown["Best"]] == ranked[::-1][:9]
    assert [scores[card.name] for card in shown["Worst"]] == ranked[:9]
    assert len({card.name for card in shown["Random"]}) == 9
    for card in (card for cards in shown.values() for card in cards):
        assert card.caption == said[card.name]
        assert card.references == references[card.name]
        assert card.note == f"sentence BLEU-4 {scores[card.name]:.2f}"
        assert card.has_picture == (card.name != "val00000.png")
    captions = {caption.image: caption for caption in runs.caption_run(run, count=40)}
    policy = Beam(5, n_best=5, max_length=run.config.max_words)
    if neighbours:
        assert run.ranker is not None
        policy = runs.RankedBeam(10, n_best=5, no_stutter=run.ranker.no_stutter)
    beams = {
        caption.image: caption.n_best for caption in runs.caption_run(run, count=40, policy=policy)
    }
    for card in shown["Random"]:
        np.testing.assert_allclose(card.probabilities, captions[card.name].probabilities, atol=6e-4)
        assert card.ranked == [
            (one.caption or "(nothing)", f"{one.log_probability:.2f}") for one in beams[card.name]
        ]
        assert len(set(card.ranked)) == 5


def test_cards_explain_ranked_captions_by_names_where_training_photos_are_not_at_hand(
    made: Path,
) -> None:
    run = open_run(made / "run")
    page = (made / "run" / "index.html").read_text().partition('<section id="gallery-1"')[2]
    cards = re.findall(r"<article>(.*?)</article>", page, re.DOTALL)
    said = {one.image: one for one in runs.caption_run(run, count=40, explain=True)}
    assert len(cards) == 27
    for card in cards:
        one = said[re.findall(r"<h3[^>]*>(.*?)</h3>", card)[0]].explanation
        assert one is not None
        assert decision(one) in html.unescape(card)
        names = re.findall(r'<span class="name"><bdi>(.*?)</bdi>', card)
        assert names == [near.image for near in one.neighbours[:5]]
    assert '<use href="#photo' not in page


def test_the_page_states_every_score_with_its_protocol(made: Path) -> None:
    page = html.unescape((made / "run" / "index.html").read_text())
    for row in evaluate_run(open_run(made / "run")).rows():
        for text in row:
            assert text in page
    assert re.search(
        r"perplexity</dt>.*?equally likely next words.*?log-likelihood", page, re.DOTALL
    )


def test_the_page_opens_with_captions_spread_over_the_split_and_three_scores(made: Path) -> None:
    evaluation = evaluate_run(open_run(made / "run"))
    page = (made / "run" / "index.html").read_text()
    opening = page.partition('<section id="headline">')[0]
    names = re.findall(r"<h3[^>]*>(.*?)</h3>", opening)
    assert names == [one.image for one in evaluation.spread(count=4)]
    assert "What a beam search found" not in opening
    tiles = re.findall(
        r'<dt>(.*?)</dt>\s*<dd class="value">(\S+) <span class="human">people (\S+)</span>', page
    )
    human = evaluation.human_scores
    assert tiles == [
        (title, f"{evaluation.scores[name]:.3f}", f"{human[name]:.3f}")
        for title, name in (
            ("distinct captions", "distinct"),
            ("CIDEr-D", "cider"),
            ("BLEU-4", "bleu4"),
        )
    ]


def test_a_picture_is_described_by_its_caption_on_every_page(made: Path, tmp_path: Path) -> None:
    run = open_run(made / "run")
    folder = shutil.copytree(made / "photos", tmp_path / "photos")
    captions, _ = runs.caption_files(run, str(folder), show=True)
    page = runs.caption_page(run, iter(captions)).decode()
    said = [html.unescape(alt) for alt in re.findall(r'<img [^>]*alt="(.*?)">', page)]
    assert said == [caption.caption or f"Picture {caption.image}" for caption in captions]
    for cards in galleries((made / "run" / "index.html").read_text()).values():
        for card in cards:
            if card.caption and card.has_picture:
                assert f'alt="{card.caption}"' in (made / "run" / "index.html").read_text()


@pytest.mark.slow
def test_equal_runs_have_equal_pages(made: Path, tmp_path: Path) -> None:
    train_run(Recipe(data=made / "data.h5", out=tmp_path / "run", **SMALL))
    for name in ("index.html", "README.md"):
        assert (tmp_path / "run" / name).read_bytes() == (made / "run" / name).read_bytes()


@pytest.mark.slow
def test_nothing_is_written_outside_the_run_folder(tmp_path: Path) -> None:
    folders = {
        name: str(tmp_path / name)
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    }
    for folder in folders.values():
        Path(folder).mkdir()
    code = (
        "from pathlib import Path; from xpcap.shapes import generate; from xpcap.runs import"
        " Recipe, train;train.generate = lambda seed, **how: generate(seed, train=20,"
        f" val=6); train.train_run(Recipe(out=Path('runs/r'), **{SMALL}))"
    )
    result = program(code, folder=tmp_path, **folders, PYTHONDONTWRITEBYTECODE="1")
    assert result.stderr == ""
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in written} == {"runs"}


def test_a_run_on_data_without_val_has_a_page_of_curves(made: Path, tmp_path: Path) -> None:
    data = open_data(made / "data.h5")
    write_dataset(
        tmp_path / "train.h5",
        CaptionData(data.vocabulary, {"train": data.split("train")}, source=data.source),
    )
    run, evaluation = train_run(
        Recipe(tmp_path / "train.h5", out=tmp_path / "run", neighbours=False, **SMALL)
    )
    assert evaluation is None
    page = (run.path / "index.html").read_text()
    assert galleries(page) == {}
    assert "Training" in page


@pytest.mark.slow
def test_few_pictures_make_short_galleries(made: Path, tmp_path: Path) -> None:
    data = open_data(made / "data.h5")
    val = data.split("val")
    one = dataclasses.replace(
        val,
        captions=val.captions[:5],
        image_idxs=val.image_idxs[:5],
        features=val.features[:1],
        images=["../secret.png"],
    )
    one = dataclasses.replace(one, text=list(val.text or [])[:5])
    (made / "secret.png").write_bytes((made / "photos" / "val00001.png").read_bytes())
    write_dataset(
        tmp_path / "one.h5",
        CaptionData(
            data.vocabulary, {"train": data.split("train"), "val": one}, source=data.source
        ),
    )
    run, _ = train_run(Recipe(data=tmp_path / "one.h5", out=tmp_path / "run", **SMALL))
    shown = galleries((run.path / "index.html").read_text())
    assert {title: len(cards) for title, cards in shown.items()} == {
        "Best": 1,
        "Worst": 1,
        "Random": 1,
    }
    assert not shown["Best"][0].has_picture  # it lies outside the folder of pictures


def test_a_page_finds_what_prepare_finds_and_nothing_outside(made: Path, tmp_path: Path) -> None:
    """Links in the folder of pictures lead to further ones."""
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    photos.mkdir()
    shutil.copytree(made / "photos", elsewhere)
    (photos / "link").symlink_to(elsewhere)
    (name,) = (name for name in PictureFolder("test", photos).pictures if "val00001" in name)
    find = picture_finder(open_run(made / "run"), Source(pictures=str(photos)))
    np.testing.assert_array_equal(find(name), read_picture(elsewhere / "val00001.png"))
    np.testing.assert_array_equal(find(str(photos / name)), find(name))
    for outside in ("../elsewhere/val00001.png", str(elsewhere / "val00001.png"), "link/../x.png"):
        assert find(outside) is None
    drawn = picture_finder(open_run(made / "run"), Source(generated=GENERATOR, seed=0))
    assert drawn("val00001.png") is not None
    assert drawn("another run: val00001.png") is None  # not the picture of its namesake


def test_a_run_stopped_on_the_way_has_a_page_that_says_so(made: Path, tmp_path: Path) -> None:
    class Stop(Watcher):
        def epoch(self, solver: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Recipe(data=made / "data.h5", out=tmp_path / "run", **SMALL), watchers=[Stop()])
    assert "After epoch 1 of 2" in (tmp_path / "run" / "index.html").read_text()


@pytest.mark.slow
def test_one_training_opens_stamps_tokenises_and_captions_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, scores, page and the captions that the command prints share one open data set and
    the captions that were scored.

    Words of val are made twice: captions that choose the epoch are scored as well; those of train
    once, for the bigrams and endings that people wrote.
    """
    data = open_data(made / "data.h5")
    counts: Counter[str] = Counter()

    def count(place: Any, name: str, size: Callable[..., int] = lambda *args, **kwargs: 1) -> None:
        real = getattr(place, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[name] += size(*args, **kwargs)
            return real(*args, **kwargs)

        monkeypatch.setattr(place, name, counted)

    count(xpcap.data, "read_dataset")
    count(hdf5, "fingerprint_of")
    count(hdf5, "check_data")
    count(
        CaptioningRNN,
        "decode",
        lambda model, features, policy, **_: 0 if policy.n_best else len(features),
    )
    count(xpcap.data.dataset, "tokenize")
    count(xpcap.runs.scores, "tokenize")
    options = [*commands.SMALL, "--no-neighbours"]
    commands.good("train", made / "data.h5", "--out", tmp_path / "run", *options)
    val, train = data.split("val"), data.split("train")
    opened = {"read_dataset": 1, "fingerprint_of": 1, "check_data": 1}
    tokenised = 2 * len(val.captions) + len(train.captions)
    assert counts == {**opened, "decode": len(val.images), "tokenize": tokenised}
    counts.clear()
    commands.good(
        "train",
        made / "data.h5",
        "--out",
        tmp_path / "staged",
        *commands.SMALL,
        "--score-epochs",
        1,
    )
    assert {name: counts[name] for name in opened} == opened  # once for both stages, and the fit


@pytest.mark.slow
def test_generated_pictures_are_hashed_once_and_never_opened(
    few_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints: list[str] = []
    real = hdf5.fingerprint_of

    def fingerprint(data: CaptionData) -> str:
        fingerprints.append(real(data))
        return fingerprints[-1]

    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "fingerprint_of", fingerprint)
        patch.setattr(xpcap.data, "read_dataset", lambda path: pytest.fail(f"{path} was opened"))
        run, evaluation = train_run(Recipe(out=Path("run"), **SMALL))
    assert evaluation is not None
    assert fingerprints == [run.config.data_stamp] == [open_data(run.path / "data.h5").fingerprint]
