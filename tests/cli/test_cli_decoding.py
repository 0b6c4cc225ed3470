"""The options of `caption` and `evaluate` that choose words: which policy they make, what comes
out, and what does not go together.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from commands import answer, call, failing, good

from xpcap import open_run
from xpcap.captioning.captions import caption_run
from xpcap.cli import evaluate as command
from xpcap.models import Beam, Policy, Sampling
from xpcap.runs.run import Run

pytestmark = pytest.mark.usefixtures("few_pictures")


def said(run: Path, *options: object) -> list[dict[str, Any]]:
    return list(answer("caption", run, "-n", 14, *options))


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ("", Policy()),
        ("--beam 7", Beam(7)),
        (
            "--beam 6 --length-penalty 0 --groups 3 --diversity 1.5",
            Beam(6, length_penalty=0.0, groups=3, diversity=1.5),
        ),
        ("--temperature 0.5", Sampling(0.5)),
        ("--top-k 4 --sample-seed 3", Sampling(top_k=4, seed=3)),
        ("--top-p 0.9 --temperature 2", Sampling(2.0, top_p=0.9)),
        ("--least-words 3 --no-repeat", Policy(least_length=3, no_repeat_trigram=True)),
        ("--beam 2 --least-words 3", Beam(2, least_length=3)),
    ],
)
def test_options_make_the_policy(
    options: str, policy: Policy, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def evaluate_run(run: Run, *_: Any, policy: Policy, **__: Any) -> None:
        seen.append(policy)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "evaluate_run", evaluate_run)
    assert call("evaluate", run, *options.split()).exit_code == 130
    (made,) = seen
    assert type(made) is type(policy)
    most = open_run(run).config.max_words
    assert {**vars(made), "forbid": (*made.forbid,)} == vars(policy) | {"max_length": most}


def test_a_beams_captions_come_out_with_their_log_probabilities(run: Path, tmp_path: Path) -> None:
    expected = caption_run(
        open_run(run),
        count=14,
        policy=Beam(5, length_penalty=0.3, n_best=5, max_length=open_run(run).config.max_words),
    )
    found = said(run, "--beam", 5, "--length-penalty", 0.3)
    for one, caption in zip(found, expected, strict=True):
        assert one["n_best"] == [*map(asdict, caption.n_best)]
        assert len(one["n_best"]) == 5
        assert one["caption"] == one["n_best"][0]["caption"] == caption.caption
    assert [len(one["n_best"]) for one in said(run, "--beam", 3, "--n-best", 2)] == 14 * [2]
    beam = "--beam 5 --length-penalty 0.3".split()
    alone = good("caption", run, "-n", 14, *beam, "--html", tmp_path / "page.html").stdout
    assert f"{expected[0].n_best[1].log_probability:6.2f}" not in alone
    text = good("caption", run, "-n", 14, *beam, "--n-best", 5).stdout
    for hypothesis in expected[0].n_best:
        assert f"{hypothesis.log_probability:6.2f}  {hypothesis.caption}".rstrip() in text
    evaluated = answer("evaluate", run, *beam)
    assert evaluated["decoding"] == "beam of 5, length penalty 0.3"
    assert evaluated["captions"] == {one["image"]: one["caption"] for one in found}


def test_draws_depend_on_the_seed_alone(run: Path) -> None:
    first, again, other = (
        said(run, "--temperature", 1, "--sample-seed", seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert [one["caption"] for one in first] != [one["caption"] for one in other]
    assert "n_best" not in first[0]
    evaluated = answer("evaluate", run, "--temperature", 1, "--sample-seed", 1)["captions"]
    assert evaluated == {one["image"]: one["caption"] for one in first}


def test_words_that_are_banned_are_not_said(run: Path) -> None:
    word = said(run, "--least-words", 1)[0]["caption"].split()[0]
    found = said(run, "--least-words", 1, "--ban", word, "--ban", "blue")
    assert all(one["caption"] for one in found)
    assert not any({word, "blue"} & set(one["caption"].split()) for one in found)


MISUSED = """
--beam 0 | --beam is 0, expected a whole number of at least 1
--beam five | --beam is 'five', expected a whole number of at least 1
--beam 5 --n-best 6 | --n-best is 6, expected a whole number in 1..5; a beam returns at most --beam captions
--beam 5 --groups 2 | --groups is 2, expected a divisor of --beam, 5
--beam 5 --length-penalty nan | --length-penalty is nan, expected a number in 0..10
--beam 4 --diversity 1 | --diversity requires --groups
--n-best 3 | --n-best requires --beam
--top-p 1.5 | --top-p is 1.5, expected a number in 0.000001..1; it is a probability
--top-k 0 | --top-k is 0, expected a whole number of at least 1
--temperature 0 | --temperature is 0.0, expected a finite number of at least 0.001; for the likeliest words, decode greedily
--sample-seed -1 | --sample-seed is -1, expected a whole number in 0..2**63-1
--least-words 99 | --least-words is 99, expected a whole number in 0..25
--ban sqare | --ban has 'sqare', which is not in the vocabulary of run, expected one of its | did you mean 'square'?
--ban <END> | --ban has '<END>', which is not in the vocabulary of run
"""


def test_options_that_make_no_sense_are_refused_in_terms_of_options(run: Path) -> None:
    for row in MISUSED.strip().splitlines():
        options, *words = row.split(" | ")
        failing(["caption", run.name, *options.split()], *words, status=2)
        if "--ban" in options:
            failing(["evaluate", run.name, *options.split()], *words, status=2)
    failing(["evaluate", run.name, "--n-best", "3"], "No such option", status=2)
    words = [word for word in open_run(run).vocabulary.idx_to_word if not word.startswith("<")]
    banned = [part for word in words for part in ("--ban", word)]
    failing(["caption", run.name, *banned], "--ban bans every word; leave at least one", status=2)
