"""The doctor on runs that were made sick one way at a time, and on good ones, of which it finds
nothing to say.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, good
from refusals import refuses

from xpcap import CaptioningRNN, CaptioningSolver, use_backend
from xpcap.data import CaptionData, Vocabulary, open_data
from xpcap.data.dataset import Split
from xpcap.layers import CELLS
from xpcap.layers.cells import no_activations
from xpcap.runs import Diagnosis, Run, examine_run
from xpcap.runs.captioning import caption_chosen, captioned, data_of
from xpcap.runs.doctor import Symptom
from xpcap.runs.folder import HISTORY, write_lines

COLOURS, THINGS, PLACES = (
    "red blue green black white".split(),
    "dog cat bird horse cow fish".split(),
    "grass road sand snow hill".split(),
)
FORMS = ("a {0} {1} on the {2}", "there is a {0} {1} standing on the {2}", "{1} on {2}")
NAMES = [
    "alike",
    "features",
    "variety",
    "repeats",
    "unseen_bigrams",
    "bad_endings",
    "ending",
    "length",
    "unknown",
    "vocabulary",
    "overfitting",
    "gates",
]


def draw(pictures: int) -> dict[str, Any]:
    """A split of pictures with a colour, a thing and a place each, whose features are these three,
    and two captions each.
    """
    rng = np.random.default_rng(pictures)
    scenes = [rng.integers(len(words), size=pictures) for words in (COLOURS, THINGS, PLACES)]
    features = np.concatenate([np.eye(6, dtype=np.float32)[scene] for scene in scenes], axis=1)
    said = [
        tuple(words[i] for words, i in zip((COLOURS, THINGS, PLACES), scene, strict=True))
        for scene in zip(*scenes, strict=True)
    ]
    texts = [
        FORMS[(2 * i + k) % 3 if k else 0].format(*words)
        for i, words in enumerate(said)
        for k in range(2)
    ]
    return {"features": features, "texts": texts}


def make_data(train: int = 200, val: int = 60, most_words: int | None = None) -> CaptionData:
    drawn = {"train": draw(train), "val": draw(val)}
    vocabulary = Vocabulary.build_from_words(
        [text.split() for text in drawn["train"]["texts"]], 1, most=most_words
    )
    splits = {
        name: Split(
            vocabulary.encode(one["texts"], 12),
            np.repeat(np.arange(len(one["features"])), 2).astype(np.int32),
            one["features"],
            [f"{name}{i}" for i in range(len(one["features"]))],
            one["texts"],
        )
        for name, one in drawn.items()
    }
    return CaptionData(vocabulary, splits)


def train(folder: Path, data: CaptionData, epochs: int = 6, lr: float = 0.01, **model: Any) -> Run:
    """A run in `folder`, of which only the history is written."""
    size = data.feature_shape if len(data.feature_shape) > 1 else 18
    captioner = CaptioningRNN(
        data.vocabulary.word_to_idx, size, 16, 32, **{"cell_type": "lstm", "seed": 0, **model}
    )
    solver = CaptioningSolver(
        captioner,
        data,
        update_rule="adam",
        optim_config={"learning_rate": lr},
        num_epochs=epochs,
        batch_size=25,
        verbose=False,
        seed=0,
    )
    solver.train()
    folder.mkdir(exist_ok=True)
    write_lines(folder / HISTORY, solver.history)
    captioner.params = solver.best_params
    return Run(
        folder,
        {"max_words": 12},
        data.vocabulary,
        data.scaling,
        captioner,
        {"epoch": solver.best_epoch},
    )


def _places(features: np.ndarray) -> np.ndarray:
    grids = np.zeros((len(features), 3, 18), np.float32)
    for place in range(3):
        grids[:, place, 6 * place : 6 * place + 6] = features[:, 6 * place : 6 * place + 6]
    return grids


DATA = make_data()
CASES = [
    *(("lstm", inject) for inject in ("init", "every-step", "attention")),
    *(("rnn", "init"), ("gru", "every-step"), ("gru", "attention")),
]
# The same pictures as grids: a place for the colour, the thing and the place, each with its six
# numbers where a whole feature has them
GRIDS = replace(
    DATA,
    splits={
        name: replace(split, features=_places(split.features))
        for name, split in DATA.splits.items()
    },
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        case: train(
            folder / "-".join(case),
            GRIDS if "attention" in case else DATA,
            cell_type=case[0],
            inject=case[1],
        )
        for case in CASES
    }


def examine(run: Run, data: CaptionData = DATA) -> dict[str, Diagnosis]:
    data = GRIDS if data is DATA and run.model.config.attends else data
    seen = data_of(run, data)
    captions = caption_chosen(run, seen, "val", captioned(seen, "val"))
    return {
        finding.name: finding
        for finding in examine_run(run, [caption.caption.split() for caption in captions], data)
    }


def spoiled(run: Run, spoil: Callable[[CaptioningRNN], None]) -> Run:
    model = copy.deepcopy(run.model)
    spoil(model)
    return run._replace(model=model)


def biased(word: str, by: float) -> Callable[[CaptioningRNN], None]:
    def spoil(model: CaptioningRNN) -> None:
        model.params["b_vocab"][model.word_to_idx[word]] += by

    return spoil


@pytest.mark.parametrize("case", CASES)
def test_good_runs_are_well_and_are_told_nothing_to_do(
    healthy: dict[tuple[str, str], Run], case: tuple[str, str]
) -> None:
    found = examine(healthy[case])
    assert list(found) == NAMES
    for finding in found.values():
        assert finding.verdict == "ok", finding
        assert finding.text.endswith(".")
        assert "`" not in finding.text


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_is_blind_says_one_thing_of_all_pictures(
    healthy: dict[tuple[str, str], Run], case: tuple[str, str]
) -> None:
    found = examine(spoiled(healthy[case], lambda model: model.params["W_proj"].fill(0)))
    assert found["features"].verdict == found["variety"].verdict == "bad"
    assert found["features"].value == pytest.approx(1, abs=1e-5)
    assert found["variety"].value == pytest.approx(1 / 60)
    assert "is said 60 times" in found["variety"].text
    assert "depend on the picture" in found["features"].text


def test_pictures_whose_features_are_mixed_up_are_noticed(
    healthy: dict[tuple[str, str], Run],
) -> None:
    """The model is good, but in this data set each caption is of another picture."""
    val = DATA.splits["val"]
    mixed = CaptionData(
        DATA.vocabulary, {**DATA.splits, "val": replace(val, features=val.features[::-1])}
    )
    found = examine(healthy["lstm", "init"], mixed)
    assert found["features"].verdict == "bad"
    assert found["variety"].verdict == "ok"


def test_training_captions_that_are_alike_are_blamed_and_not_the_features(tmp_path: Path) -> None:
    splits = {
        name: replace(split, text=["a nice photo"] * len(split.captions))
        for name, split in DATA.splits.items()
    }
    vocabulary = Vocabulary.build(splits["train"].text or (), 1)
    data = CaptionData(
        vocabulary,
        {
            name: replace(split, captions=vocabulary.encode(split.text or (), 12))
            for name, split in splits.items()
        },
    )
    found = examine(train(tmp_path / "run", data), data)
    assert (found["alike"].verdict, found["alike"].value) == ("bad", 1)
    assert "All or most training captions are the same" in found["alike"].text
    assert found["features"].verdict == "bad"
    assert "training captions are the same" in found["features"].text
    assert "belong together" not in found["features"].text


def test_captions_of_other_data_are_not_those_that_a_run_learnt_from(
    healthy: dict[tuple[str, str], Run],
) -> None:
    run = healthy["lstm", "init"]
    assert (
        examine(run._replace(config={**run.config, "data_stamp": "another's"}))["alike"].verdict
        == "unknown"
    )


@pytest.mark.parametrize(
    ("caption", "twice"),
    [
        ("a man is is on a", "is is"),
        ("a group of a of a dog", "of a of a"),
        ("in the blue in the blue", "in the blue in the blue"),
        ("a dog and a dog", ""),
        ("a man in a hat in a car", ""),
        ("", ""),
    ],
)
def test_words_twice_in_a_row_are_found_and_words_that_come_back_later_are_not(
    caption: str, twice: str, healthy: dict[tuple[str, str], Run]
) -> None:
    said = [caption.split(), *[["a", "dog"]] * 59]
    found = {finding.name: finding for finding in examine_run(healthy["lstm", "init"], said, DATA)}[
        "repeats"
    ]
    assert found.value == pytest.approx(bool(twice) / 60)
    assert (f"most often {twice!r}" in found.text) == bool(twice)


def test_stuttering_captions_are_bad_and_the_word_is_named(
    healthy: dict[tuple[str, str], Run],
) -> None:
    found = {
        finding.name: finding
        for finding in examine_run(
            healthy["lstm", "init"], [["a", "man", "is", "is", "is"]] * 60, DATA
        )
    }
    assert found["repeats"].verdict == "bad"
    assert "60 of 60 captions" in found["repeats"].text


def judged(run: Run, captions: list[list[str]], data: CaptionData = DATA) -> dict[str, Diagnosis]:
    return {one.name: one for one in examine_run(run, captions, data)}


def test_captions_by_people_read_well(healthy: dict[tuple[str, str], Run]) -> None:
    found = judged(healthy["lstm", "init"], DATA.words("val")[::2])
    for name in ("variety", "repeats", "unseen_bigrams", "bad_endings", "ending", "length"):
        assert found[name].verdict == "ok", name


def test_captions_that_break_off_are_bad_and_the_word_is_named(
    healthy: dict[tuple[str, str], Run],
) -> None:
    broken = [["a", "red", "dog", "on", "the"]] * 10 + [["a", "red", "dog", "on"]] * 5
    found = judged(healthy["lstm", "init"], broken + DATA.words("val")[::2][15:])["bad_endings"]
    assert (found.verdict, found.value) == ("bad", 15 / 60)
    assert "15 of 60 captions end in" in found.text
    assert "'the' (10), 'on' (5)" in found.text
    assert "of people's 0.0%" in found.text


def test_words_that_do_not_go_together_are_bad_and_words_that_are_not_known_do_not_count(
    healthy: dict[tuple[str, str], Run],
) -> None:
    """Of six pairs in "dog the red cat zebra", two are with "zebra" and one is "red cat"."""
    salad = [["dog", "the", "red", "cat", "zebra"]] * 60
    found = judged(healthy["lstm", "init"], salad)["unseen_bigrams"]
    assert (found.verdict, found.value) == ("bad", pytest.approx(2 / 4))
    assert "'dog the', 'the red'" in found.text


def test_what_people_write_moves_the_limits(healthy: dict[tuple[str, str], Run]) -> None:
    """Where a tenth of people's captions say a word twice, as many of a run's are no fault."""
    val = DATA.splits["val"]
    texts = [f"very {text}" if i < 12 else text for i, text in enumerate(val.text or ())]
    texts = [text.replace("very", "very very") for text in texts]
    data = replace(DATA, splits={**DATA.splits, "val": replace(val, text=texts)})
    said = [text.split() for text in texts[::2]]
    found = judged(healthy["lstm", "init"], said, data)["repeats"]
    assert (found.verdict, found.value) == ("ok", 0.1)
    assert found.limit == pytest.approx(0.15)
    assert judged(healthy["lstm", "init"], said)["repeats"].verdict == "check"


@pytest.mark.usefixtures("few_pictures")
@pytest.mark.slow
def test_where_words_are_lacking_the_command_to_type_is_printed_and_makes_a_larger_vocabulary(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = [
        f"{i}.jpg,a {colour} dog number{i % 10}" for i, colour in enumerate(["red", "blue"] * 20)
    ]
    Path("captions.csv").write_text("\n".join(["image,caption", *rows]))
    np.savez(
        "features.npz",
        names=[f"{i}.jpg" for i in range(40)],
        features=rng.standard_normal((40, 5)).astype("f4"),
    )
    good(
        "prepare", "captions.csv", "--features", "features.npz", "--out", "own.h5", "--min-count", 8
    )
    good("train", "own.h5", "--out", "run", *SMALL)
    output = good("evaluate", "run", "--doctor").output
    assert "a lower --min-count than 8" in " ".join(output.split())
    command = output.strip().splitlines()[-1].split("prepare ")[1]
    assert command == "captions.csv --features features.npz --min-count 4 --out own-min-count-4.h5"
    good("prepare", *command.split())
    assert len(open_data("own-min-count-4.h5").vocabulary) > len(open_data("own.h5").vocabulary)
    good(
        "prepare", "captions.csv", "--features", "features.npz", "--out", "all.h5", "--min-count", 1
    )
    good("train", "all.h5", "--out", "all", *SMALL)
    assert "\nnext, with" not in good("evaluate", "all", "--doctor").output


def test_a_model_that_never_says_end_runs_to_the_limit_and_is_too_long(
    healthy: dict[tuple[str, str], Run],
) -> None:
    found = examine(spoiled(healthy["lstm", "init"], biased("<END>", -100)))
    assert (found["ending"].verdict, found["ending"].value) == ("bad", 1)
    assert found["length"].verdict == "bad"
    texts = DATA.splits["val"].text or ()
    assert found["length"].value == pytest.approx(
        12 / np.mean([len(text.split()) for text in texts])
    )
    assert "stop at 12 words because they must" in found["ending"].text
    assert "`max_words`" not in found["ending"].text  # the references are short


def test_a_model_that_says_end_at_once_is_too_short(healthy: dict[tuple[str, str], Run]) -> None:
    found = examine(spoiled(healthy["rnn", "init"], biased("<END>", 100)))
    assert (found["length"].verdict, found["length"].value, found["length"].limit) == (
        "bad",
        0,
        0.8,
    )
    assert found["ending"].verdict == "ok"


def test_a_limit_below_the_references_length_is_blamed_on_the_limit(
    healthy: dict[tuple[str, str], Run],
) -> None:
    run = healthy["lstm", "init"]
    found = examine(run._replace(config={"max_words": 3}))
    assert found["ending"].verdict == "bad"
    assert "`max_words`" in found["ending"].text


def test_a_vocabulary_of_few_words_is_found_in_the_references_and_in_what_would_be_said(
    tmp_path: Path,
) -> None:
    data = make_data(most_words=8)
    found = examine(train(tmp_path / "run", data), data)
    words = [word for text in data.splits["val"].text or () for word in text.split()]
    lacking = [word for word in words if word not in data.vocabulary.word_to_idx]
    assert found["vocabulary"].value == pytest.approx(len(lacking) / len(words))
    assert found["vocabulary"].verdict == found["unknown"].verdict == "bad"
    assert (
        f"{max(set(lacking), key=lacking.count)} ({max(map(lacking.count, lacking))})"
        in found["vocabulary"].text
    )
    assert found["unknown"].value == pytest.approx(len(lacking) / len(words), abs=0.15)


def test_a_run_that_memorises_a_few_captions_has_overfitted(tmp_path: Path) -> None:
    data = make_data(train=12)
    found = examine(train(tmp_path / "run", data, epochs=60, lr=0.02), data)["overfitting"]
    assert found.verdict == "bad"
    assert "overfit the training captions" in found.text
    records = [json.loads(line) for line in (tmp_path / "run" / HISTORY).read_text().splitlines()]
    losses = [record["val_loss"] for record in records]
    assert found.value == pytest.approx(losses[-1] / min(losses) - 1)
    assert f"the run keeps epoch {losses.index(min(losses)) + 1}" in found.text


def test_a_loss_that_rises_while_captions_improve_is_no_illness(
    healthy: dict[tuple[str, str], Run], tmp_path: Path
) -> None:
    """The same losses in a run that chose its epoch by loss, and in one that chose it by
    captions.
    """
    run = healthy["lstm", "init"]._replace(path=tmp_path)
    epochs = [
        {"epoch": 1, "train_loss": 9.0, "val_loss": 10.0},
        {"epoch": 2, "train_loss": 8.0, "val_loss": 10.5},
    ]
    write_lines(tmp_path / HISTORY, epochs)
    assert examine(run)["overfitting"].verdict == "check"
    write_lines(
        tmp_path / HISTORY,
        [{**epoch, "val_cider": cider} for epoch, cider in zip(epochs, (0.4, 0.5), strict=True)],
    )
    found = examine(run)["overfitting"]
    assert (found.verdict, found.value) == ("ok", pytest.approx(0.05))
    assert "from 10.0 after epoch 1 to 10.5 after epoch 2" in found.text


def test_losses_that_rise_together_are_no_overfitting_but_a_step_too_long(
    healthy: dict[tuple[str, str], Run], tmp_path: Path
) -> None:
    write_lines(
        tmp_path / HISTORY,
        [
            {"epoch": 1, "train_loss": 9.0, "val_loss": 10.0},
            {"epoch": 2, "train_loss": 12.0, "val_loss": 13.0},
        ],
    )
    found = examine(healthy["lstm", "init"]._replace(path=tmp_path))["overfitting"]
    assert (found.verdict, found.value) == ("bad", pytest.approx(0.3))
    assert "`lr`" in found.text
    assert "by heart" not in found.text


@pytest.mark.parametrize("case", CASES)
def test_weights_that_grew_too_large_saturate_the_cell(
    healthy: dict[tuple[str, str], Run], case: tuple[str, str]
) -> None:
    def grow(model: CaptioningRNN) -> None:
        for name in ("Wx", "Wh", "b"):
            model.params[name] = model.params[name] * 100

    run = healthy[case]
    found = examine(spoiled(run, grow))["gates"]
    assert found.verdict == "bad"
    assert found.value is not None
    assert found.value > 0.95 > 0.8 > (examine(run)["gates"].value or 1)


def test_a_learning_rate_that_is_far_too_high_saturates_the_cell(tmp_path: Path) -> None:
    found = examine(train(tmp_path / "run", DATA, lr=1.0))["gates"]
    assert found.verdict == "bad"
    assert "`lr`" in found.text


@pytest.mark.parametrize(
    ("bad", "values"),
    [(0.3, (0.2, 0.21, 0.3, 0.31)), (0.1, (0.2, 0.19, 0.1, 0.09))],
    ids=["high is bad", "low is bad"],
)
def test_a_value_at_a_limit_is_on_its_better_side(bad: float, values: tuple[float, ...]) -> None:
    symptom = Symptom("name", "title", check=0.2, bad=bad)
    assert [symptom.verdict(value) for value in values] == ["ok", "check", "check", "bad"]


@pytest.mark.parametrize(
    "history",
    [
        "",
        "no JSON",
        (
            '{"epoch": 1, "train_loss": 9.0, "val_loss": 9.0}\n{"epoch": 2, "train_loss": 9.0,'
            ' "val_loss": Infinity}'
        ),
    ],
)
def test_without_a_history_overfitting_is_unknown_and_not_well(
    healthy: dict[tuple[str, str], Run], tmp_path: Path, history: str
) -> None:
    (tmp_path / HISTORY).write_text(history)
    found = examine(healthy["lstm", "init"]._replace(path=tmp_path))["overfitting"]
    assert (found.verdict, found.value) == ("unknown", None)
    assert "history.jsonl" in found.text


def test_what_cannot_be_measured_is_unknown(
    healthy: dict[tuple[str, str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture cannot be exchanged for another, and a cell may leave out where its gates are."""
    monkeypatch.setitem(CELLS, "lstm", CELLS["lstm"]._replace(activations=no_activations))
    val = DATA.splits["val"]
    one = replace(
        val, captions=val.captions[:2], image_idxs=val.image_idxs[:2], text=(val.text or ())[:2]
    )
    found = examine(healthy["lstm", "init"], CaptionData(DATA.vocabulary, {"val": one}))
    assert [name for name, finding in found.items() if finding.verdict == "unknown"] == [
        "alike",
        "features",
        "unseen_bigrams",
        "bad_endings",
        "gates",
    ]
    assert "no train split" in found["unseen_bigrams"].text
    assert "no train split" in found["bad_endings"].text
    assert found["features"].to_json()["value"] is None


def test_captions_of_another_split_are_refused(healthy: dict[tuple[str, str], Run]) -> None:
    with refuses(
        ValueError, came="got 1 captions", expected="one for each of the 60 pictures of val"
    ):
        examine_run(healthy["lstm", "init"], [["a"]], DATA)


@pytest.mark.parametrize("case", CASES)
def test_a_device_finds_what_the_host_finds(
    healthy: dict[tuple[str, str], Run], case: tuple[str, str], device: Any
) -> None:
    host = healthy[case]
    with use_backend("cupy"):
        params = {name: np.array(value) for name, value in host.model.params.items()}
        there = host._replace(
            model=CaptioningRNN.from_config(
                host.model.config, host.vocabulary.word_to_idx, params=params
            )
        )
        found = examine(there)
    for name, finding in examine(host).items():
        assert found[name].value == pytest.approx(finding.value, abs=2e-3), name
        assert found[name].verdict == "ok"


def test_activations_are_the_gates_of_the_steps_taken(healthy: dict[tuple[str, str], Run]) -> None:
    """Of a caption of two words and END, three rows; the first from h0 and <START>."""
    model = healthy["lstm", "init"].model
    val, p = DATA.splits["val"], model.params
    caption = DATA.vocabulary.encode(["red dog"], 5)
    found = model.activations(val.features[:1], caption)
    a = (
        p["W_embed"][caption[0, 0]] @ p["Wx"]
        + p["b"]
        + (val.features[0] @ p["W_proj"] + p["b_proj"]) @ p["Wh"]
    )
    for name, pre in zip("ifo", a.reshape(4, -1), strict=False):
        values = found[f"gate {name}"].values
        assert values.shape == (3, 32)
        np.testing.assert_allclose(values[0], 1 / (1 + np.exp(-pre)), rtol=1e-4)


@pytest.mark.usefixtures("few_pictures")
def test_evaluate_prints_what_the_doctor_finds(run: Path) -> None:
    result = json.loads(good("evaluate", run, "--doctor", "--json").stdout)
    assert [finding["name"] for finding in result["doctor"]] == NAMES
    assert all(
        set(finding) == {"name", "value", "limit", "verdict", "text"}
        for finding in result["doctor"]
    )
    assert "doctor" not in json.loads(good("evaluate", run, "--json").stdout)
    printed = good("evaluate", run, "--doctor").stdout.partition("\ndoctor: ")[2]
    for finding in result["doctor"]:  # after two epochs on sixty pictures some things are bad
        assert f"{finding['verdict']:5}" in printed
        assert (f"\n\n{finding['name']}, {finding['verdict']}: " in printed) == (
            finding["verdict"] != "ok"
        )
    assert max(map(len, printed.splitlines())) <= 120
