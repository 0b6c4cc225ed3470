"""The doctor on good models, of which it finds nothing to say, and on what is sick in one way."""

import copy
import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer, good
from refusals import refuses
from runs import config_of

from xpcap import CaptioningRNN, CaptioningSolver, open_run, use_backend
from xpcap.captioning import doctor
from xpcap.captioning.doctor import Case, Diagnosis, Finding, Symptom, examine_run
from xpcap.captioning.scores import evaluate_run, score_captions
from xpcap.cli import main
from xpcap.cli.group import in_options
from xpcap.data import CaptionData, Split, Vocabulary
from xpcap.data.dataset import Source
from xpcap.runs.folder import HISTORY, write_lines
from xpcap.runs.run import Run
from xpcap.training.state import Record

COLOURS, THINGS, PLACES = (
    "red blue green black white".split(),
    "dog cat bird horse cow fish".split(),
    "grass road sand snow hill".split(),
)
FORMS = ("a {0} {1} on the {2}", "there is a {0} {1} standing on the {2}", "{1} on {2}")
NAMES = [one.name for one in doctor.SYMPTOMS]
pytestmark = pytest.mark.usefixtures("new_cells")


def draw(pictures: int) -> tuple[np.ndarray, list[str]]:
    """Pictures with a colour, a thing and a place each, which are their features, and two captions."""
    rng = np.random.default_rng(pictures)
    scenes = [rng.integers(len(words), size=pictures) for words in (COLOURS, THINGS, PLACES)]
    features = np.concatenate([np.eye(6, dtype=np.float32)[scene] for scene in scenes], axis=1)
    texts = [
        FORMS[(2 * i + k) % 3 if k else 0].format(COLOURS[c], THINGS[t], PLACES[p])
        for i, (c, t, p) in enumerate(zip(*scenes, strict=True))
        for k in range(2)
    ]
    return features, texts


def make_data(train: int = 200, most_words: int | None = None) -> CaptionData:
    drawn = {"train": draw(train), "val": draw(60)}
    words = [text.split() for text in drawn["train"][1]]
    vocabulary = Vocabulary.build_from_words(words, 1, max_size=most_words)
    splits = {
        name: Split(
            vocabulary.encode(texts, 12),
            np.repeat(np.arange(len(features)), 2).astype(np.int32),
            features,
            [f"{name}{i}" for i in range(len(features))],
            texts,
        )
        for name, (features, texts) in drawn.items()
    }
    return CaptionData(vocabulary, splits)


def changed(data: CaptionData, **change: Any) -> CaptionData:
    """The data with another val split."""
    val = replace(data.splits["val"], **change)
    return replace(data, splits={**data.splits, "val": val})


DATA = make_data()


def grids() -> CaptionData:
    """The same pictures as grids: the colour, the thing and the place have a region each."""

    def regions(features: np.ndarray) -> np.ndarray:
        return np.stack([features * (np.arange(18) // 6 == k) for k in range(3)], axis=1)

    splits = {
        name: replace(split, features=regions(split.features).astype(np.float32))
        for name, split in DATA.splits.items()
    }
    return replace(DATA, splits=splits)


FOLDERS = tempfile.TemporaryDirectory()  # of runs that tests share


def with_history(run: Run, history: Sequence[Record], epoch: int) -> Run:
    """The run with another history, and with the parameters of an epoch of that."""
    folder = Path(tempfile.mkdtemp(dir=FOLDERS.name))
    write_lines(folder / HISTORY, list(history))
    return replace(run, path=folder, meta={"epoch": epoch})


def case_of(run: Run, data: CaptionData, said: Sequence[str] | None = None) -> Case:
    """A case of the val split, with captions that were said, by default by the model."""
    val = data.splits["val"]
    if said is None:
        ids = run.model.sample(data.features("val", np.arange(60)), 12, forbid=(0, 1, 3))
        said = [" ".join(data.vocabulary.words(row)) for row in ids]
    scores = score_captions(data, "val", dict(zip(val.images, said, strict=False)))
    return Case(run, scores, data)


def trained(data: CaptionData, **model: Any) -> Case:
    size = data.feature_shape if len(data.feature_shape) > 1 else 18
    given = {"cell_type": "lstm", "seed": 0, **model}
    captioner = CaptioningRNN(data.vocabulary.word_to_idx, size, 16, 32, **given)
    solver = CaptioningSolver(
        captioner,
        data,
        update_rule="adam",
        optim_config={"learning_rate": 0.01},
        num_epochs=6,
        batch_size=25,
        verbose=False,
        seed=0,
    )
    solver.train()
    captioner.params = solver.best_params
    run = Run(Path(), config_of(captioner, 12), data.vocabulary, data.scaling, captioner, {})
    return case_of(with_history(run, solver.history, solver.best_epoch), data)


@functools.cache
def healthy(cell: str = "lstm", inject: str = "init") -> Case:
    return trained(grids() if "attention" in inject else DATA, cell_type=cell, inject=inject)


def judged(case: Case) -> dict[str, Diagnosis]:
    return {row.name: row.diagnose(case) for row in doctor.SYMPTOMS}


def said(captions: Sequence[str], data: CaptionData = DATA) -> dict[str, Diagnosis]:
    """The diagnoses of captions that a healthy model did not say."""
    return judged(case_of(healthy().run, data, captions))


KINDS = [("lstm", "init"), ("lstm", "attention+every-step"), ("plain", "every-step")]


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_good_models_are_well_and_are_told_nothing_to_do(kind: tuple[str, str]) -> None:
    found = judged(healthy(*kind))
    assert list(found) == NAMES
    for name, one in found.items():
        assert one.verdict == "ok", one
        assert one.text.endswith("."), f"symptom {name} of {kind} says {one.text!r}, not a sentence"
        assert "`" not in one.text


# Symptoms in captions: what is said of sixty pictures, the verdict, and words of the text

HUMAN = (DATA.splits["val"].text or ())[::2]  # a caption a picture
MEAN_LENGTH = np.mean([len(words) for words in DATA.words("val")])
BROKEN = ["a red dog on the"] * 10 + ["a red dog on"] * 5
LONG = ["very " * 12] * 60
FEW, REPEATED = ["a red dog"] * 60, ["a man is is is"] * 60
PLANTED: list[tuple[str, Sequence[str], str, float, str]] = [
    (
        "variety",
        FEW,
        "bad",
        1 / len(set(HUMAN)),
        "1 of 60 captions differ; the most frequent, 'a r",
    ),
    ("repeats", REPEATED, "bad", 1, "60 of 60 captions repeat one to three words"),
    ("repeats", ["a dog dog"] * 6 + ["a"] * 54, "check", 0.1, "'dog dog'; 0.0% of people's"),
    # Of the pairs, the ends included, four of six
    ("unseen_bigrams", ["dog the red cat zebra"] * 60, "bad", 4 / 6, "in people's captions 0.0%"),
    ("bad_endings", BROKEN, "bad", 15 / 60, "15 of 60 captions end in"),
    ("bad_endings", BROKEN, "bad", 15 / 60, "most often 'the' (10), 'on' (5); 0.0% of people's"),
    ("ending", LONG, "bad", 1, "stop at the limit of 12 words. The model does"),
    ("length", LONG, "bad", 12 / MEAN_LENGTH, "A caption has 12.0 words on average"),
    ("length", [""] * 60, "bad", 0, "BLEU's brevity penalty lowers"),
]


@pytest.mark.parametrize(("name", "captions", "verdict", "value", "text"), PLANTED)
def test_what_is_wrong_with_captions_is_found(
    name: str, captions: Sequence[str], verdict: str, value: float, text: str
) -> None:
    found = said([*captions, *HUMAN[len(captions) :]])[name]
    assert (found.verdict, found.value) == (verdict, pytest.approx(value))
    assert text in found.text


def test_captions_by_people_read_well_and_what_they_write_moves_the_limits() -> None:
    """Where a tenth of theirs say a word twice, or all sixty are of ten, so may a run's."""
    found = said(HUMAN)
    of_captions = ("variety", "repeats", "unseen_bigrams", "bad_endings", "ending", "length")
    assert {found[name].verdict for name in of_captions} == {"ok"}
    texts = [
        f"very very {text}" if number < 12 else text
        for number, text in enumerate(DATA.splits["val"].text or ())
    ]
    repeats = said(texts[::2], changed(DATA, text=texts))["repeats"]
    assert (repeats.verdict, repeats.value) == ("ok", 0.1)
    assert repeats.limit == pytest.approx(0.15)
    assert said(texts[::2])["repeats"].verdict == "check"
    texts = [f"a {colour} {thing}" for colour in COLOURS[:2] for thing in THINGS[:5]] * 6
    assert said(texts)["variety"].verdict == "check"
    variety = said(texts, changed(DATA, text=[text for text in texts for _ in "ab"]))["variety"]
    assert (variety.verdict, variety.value) == ("ok", 1)


def test_a_limit_below_the_references_length_is_blamed_on_the_limit() -> None:
    run = healthy().run
    short = replace(run, config=replace(run.config, max_words=3))
    found = judged(case_of(short, DATA, ["a red dog"] * 60))["ending"]
    assert found.verdict == "bad"
    assert "`max_words`" in found.text


def test_a_vocabulary_of_few_words_is_found_in_the_references_and_in_what_would_be_said() -> None:
    data = make_data(most_words=8)
    case = trained(data)
    words = [word for words in data.words("val") for word in words]
    lacking = [word for word in words if word not in data.vocabulary.word_to_idx]
    most = max(set(lacking), key=lacking.count)
    for prepared, advice in (
        ({}, ", prepared with a lower `min_count` or a larger `vocabulary_size`"),
        ({"min_count": 8}, ", prepared with a lower `min_count` than 8"),
        ({"min_count": 1}, ""),
        (
            {"min_count": 8, "vocabulary_size": 90},
            ", prepared with a larger `vocabulary_size` than 90",
        ),
    ):
        config = replace(case.run.config, source=Source(record=prepared))
        found = judged(replace(case, run=replace(case.run, config=config)))
        vocabulary, unknown = found["vocabulary"], found["unknown"]
        assert vocabulary.value == pytest.approx(len(lacking) / len(words))
        assert unknown.value == pytest.approx(len(lacking) / len(words), abs=0.15)
        assert vocabulary.verdict == unknown.verdict == "bad"
        assert f"most often {most} ({lacking.count(most)})" in vocabulary.text
        assert f"things{advice}." in vocabulary.text
        assert f"more captions{advice}." in unknown.text


def test_a_word_that_is_lost_is_none_that_the_vocabulary_has() -> None:
    captions = DATA.vocabulary.encode_words([["a", "<UNK>"]] * 120, 12)
    lost = changed(DATA, captions=captions, text=None)
    found = judged(replace(healthy(), data=lost))["vocabulary"]
    assert found.value == 0.5
    assert "most often <UNK> (120)" in found.text


# Symptoms in the model


@pytest.mark.parametrize("kind", KINDS[:2], ids=" ".join)
def test_a_model_that_is_blind_says_one_thing_of_all_pictures(kind: tuple[str, str]) -> None:
    case = healthy(*kind)
    model = copy.deepcopy(case.run.model)
    model.params["W_proj"].fill(0)
    found = judged(case_of(replace(case.run, model=model), case.data))
    assert found["features"].verdict == found["variety"].verdict == "bad"
    assert found["features"].value == pytest.approx(1, abs=1e-5)
    assert "occurs 60 times" in found["variety"].text
    assert "depend on the picture" in found["features"].text


def test_pictures_whose_features_are_mixed_up_are_noticed() -> None:
    """The model is good, but in this data set each caption is of another picture."""
    mixed = changed(DATA, features=DATA.splits["val"].features[::-1])
    found = judged(case_of(healthy().run, mixed))
    assert found["features"].verdict == "bad"
    assert found["variety"].verdict == "ok"


def records(*losses: tuple[float, float], **more: float) -> list[dict[str, float]]:
    return [
        {"epoch": k, "train_loss": train, "val_loss": val, **more}
        for k, (train, val) in enumerate(losses, start=1)
    ]


RISE = (9.0, 10.0), (8.0, 10.5)
TOLD, NONE = "from 10.0 after epoch 1 to 10.5 after epoch 2", "history.jsonl has fewer than two"
HISTORIES: list[tuple[list[dict[str, float]], str, float | None, str]] = [
    (records(*RISE), "check", 0.05, TOLD),
    (
        records((9.5, 11.0), (9.0, 10.0), (8.0, 13.0)),
        "bad",
        0.3,
        "overfit the training captions; the run keeps epoch 6",
    ),
    (records(*RISE, val_cider=0.4), "ok", 0.05, TOLD),  # captions may get better meanwhile
    (records((9.0, 10.0), (12.0, 13.0)), "bad", 0.3, "this is not overfitting: train with a lower"),
    ([], "unknown", None, NONE),
    (records((9.0, 9.0), (9.0, np.inf)), "unknown", None, NONE),
    (records(*RISE, train_reward=1.0), "unknown", None, "of epoch 6, the best by CIDEr-D"),
]


@pytest.mark.parametrize(("history", "verdict", "value", "text"), HISTORIES)
def test_a_rising_loss_is_judged_by_what_chose_the_epoch(
    history: list[dict[str, float]], verdict: str, value: float | None, text: str
) -> None:
    run = with_history(healthy().run, history, epoch=6)
    run = replace(run, meta={**(history or [{}])[-1], **run.meta})
    found = judged(replace(healthy(), run=run))["overfitting"]
    assert (found.verdict, found.value) == (verdict, value and pytest.approx(value))
    assert text in found.text


# The table


def test_a_value_at_a_limit_is_on_its_better_side() -> None:
    for bad, values in ((0.3, (0.2, 0.21, 0.3, 0.31)), (0.1, (0.2, 0.19, 0.1, 0.09))):
        found = []
        for value in values:
            finding = Finding(value, "", "")
            symptom = Symptom("name", "title", (0.2, bad), lambda case, one=finding: one)
            found.append(symptom.diagnose(healthy()).verdict)
        assert found == ["ok", "check", "check", "bad"]


def test_each_symptom_has_a_title_two_limits_and_advice() -> None:
    """Advice of a healthy model too, which only a sick one shows."""
    assert [*judged(healthy())] == NAMES == list(dict.fromkeys(NAMES)), "two symptoms share a name"
    for row in doctor.SYMPTOMS:
        check, bad = row.limits
        assert re.fullmatch(r"\w.*\w", row.title), f"symptom {row.name} has the title {row.title!r}"
        assert check != bad, f"symptom {row.name} has one limit twice, {check}"
        advice = row.measure(healthy()).advice
        assert re.fullmatch(r"[A-Z].*\.", advice), f"symptom {row.name} advises {advice!r}"


def test_what_cannot_be_measured_is_unknown() -> None:
    """One picture cannot be exchanged for another."""
    val = DATA.splits["val"]
    one = replace(val, captions=val.captions[:2], image_idxs=val.image_idxs[:2], text=HUMAN[:1] * 2)
    data = CaptionData(DATA.vocabulary, {"val": one})
    scores = score_captions(data, "val", {"val0": "a red dog"})
    found = judged(replace(healthy(), scores=scores, data=data))
    unknown = {name for name, one in found.items() if one.verdict == "unknown"}
    assert {"features", "unseen_bigrams", "bad_endings"} <= unknown
    assert not {"variety", "length", "vocabulary"} & unknown
    assert "no train split" in found["unseen_bigrams"].text
    assert "no train split" in found["bad_endings"].text
    assert found["features"].to_json()["value"] is None
    few = replace(scores, unscored={"bad_endings": "too few train captions to tell"})
    found = judged(replace(healthy(), scores=few, data=data))
    assert found["bad_endings"].text == "There are too few train captions to tell."


@pytest.mark.usefixtures("few_pictures")
def test_evaluate_prints_each_symptom_of_the_table(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SYMPTOMS", [*doctor.SYMPTOMS])

    @doctor.symptom("captions that nobody wrote", check=1.5, bad=0.5, cause="few captions")
    def novel(case: Case) -> Finding:
        share, human = case.score("novel")
        return Finding(share, f"{share:.0%} are new, of people's {human:.0%}.", "Lower `lr`.")

    result = answer("evaluate", run, "--doctor")
    assert [one["name"] for one in result["doctor"]] == [*NAMES, "novel"]
    keys = {"name", "value", "limit", "verdict", "text"}
    assert all(set(one) == keys for one in result["doctor"])
    assert result["doctor"][-1]["text"].endswith("Lower --lr.")
    assert "doctor" not in answer("evaluate", run)
    printed = good("evaluate", run, "--doctor").stdout.partition("\ndoctor: ")[2]
    for one in result["doctor"]:  # after two epochs on sixty pictures some things are bad
        assert re.search(rf"^{one['verdict']} +{one['name']} ", printed, re.MULTILINE)
        at_length = f"\n\n{one['name']}, {one['verdict']}: " in printed
        assert at_length == (one["verdict"] != "ok")
    assert max(map(len, printed.splitlines())) <= 120
    opened = open_run(run)
    evaluation = evaluate_run(opened)
    assert len(examine_run(opened, evaluation)) == len(result["doctor"])
    few = replace(evaluation, captions=evaluation.captions[1:])
    with refuses(ValueError, "is not of the 14 pictures of val", "a caption for"):
        examine_run(opened, few)


def test_advice_names_options_that_there_are() -> None:
    params = [param for command in main.commands.values() for param in command.params]
    source = Path(doctor.__file__).read_text("utf-8")
    texts = " ".join(re.findall(r'^ +(?:return )?f?("[^"].*")', source, re.MULTILINE))
    names = set(re.findall(r"`(\w+)`", texts))
    assert {"lr", "min_count"} <= names
    lacking = [name for name in names if not in_options(f"`{name}`", params).startswith("--")]
    assert lacking == [], (
        f"xpcap/captioning/doctor.py advises `{lacking[0]}`, which no command takes"
    )


@pytest.mark.parametrize("kind", KINDS[:2], ids=" ".join)
def test_a_device_finds_what_the_host_finds(kind: tuple[str, str], device: Any) -> None:
    host = healthy(*kind)
    with use_backend("cupy"):
        params = {name: np.array(value) for name, value in host.run.model.params.items()}
        config, words = host.run.model.config, host.run.model.word_to_idx
        model = CaptioningRNN.from_config(config, words, params=params)
        found = judged(case_of(replace(host.run, model=model), host.data))
    for name, one in judged(host).items():
        assert found[name].value == pytest.approx(one.value, abs=2e-3), name
        assert found[name].verdict == "ok"
