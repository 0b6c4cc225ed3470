"""Options that say how words are chosen: `caption` and `evaluate` share them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import click

from xpcap.cli.shared import Function, Number
from xpcap.data.vocabulary import SPECIAL
from xpcap.errors import OptionError, nearest
from xpcap.models import Beam, Policy, Sampling
from xpcap.runs import Run

OF_BEAMS = ("length_penalty", "n_best", "groups", "diversity")
OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True)
class Decoding:
    """What the options say; None where one was not given."""

    width: int | None
    length_penalty: float | None
    n_best: int | None
    groups: int | None
    diversity: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    least_length: int
    no_repeat_trigram: bool
    ban: Sequence[str]

    def policy(self, run: Run, n_best: int = 1) -> Policy:
        """The policy for a run. A beam gives the `n_best` captions, or as many as it has, unless the option says how many.

        OptionError : options do not go together, or a banned word is none of the run's.
        """
        limits = {
            "max_length": run.config["max_words"],
            "forbid": [self._id(run, word) for word in self.ban],
            "least_length": self.least_length,
            "no_repeat_trigram": self.no_repeat_trigram,
        }
        beam, sampling = self._given(OF_BEAMS), self._given(OF_SAMPLING)
        if self.width is None:
            for name in beam:
                raise OptionError(f"caption: `{name}` is given without `width`, expected both: it is of a beam")
            return Sampling(**sampling, **limits) if sampling else Policy(**limits)
        for name in sampling:
            raise OptionError(f"caption: `width` and `{name}` are given, expected one or the other: a beam draws nothing")
        if "diversity" in beam and "groups" not in beam:
            raise OptionError("caption: `diversity` is given without `groups`, expected both: groups are what it makes differ")
        return Beam(self.width, **{"n_best": max(1, min(n_best, self.width)), **beam}, **limits)

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _id(self, run: Run, word: str) -> int:
        words = [known for known in run.vocabulary.idx_to_word if known not in SPECIAL]
        if word not in words:
            raise OptionError(
                f"caption: `ban`: {word!r} is not in the vocabulary of {run.path}, expected one of its {len(words):,} words{nearest(word, words)}"
            )
        return run.vocabulary.word_to_idx[word]


OPTIONS = (
    click.option("--beam", "width", metavar="K", type=click.IntRange(1), help="Beam search with K hypotheses. Default: the likeliest word at each step."),
    click.option(
        "--length-penalty", type=Number(min=0), help="Of a beam: captions are ranked by log-probability / words to this power. Default: 0.7."
    ),
    click.option("--n-best", metavar="N", type=click.IntRange(1), help="Of a beam: the N best captions of a picture, with log-probabilities."),
    click.option("--groups", metavar="G", type=click.IntRange(1), help="Of a beam: G groups of hypotheses that are made to differ. Default: 1."),
    click.option("--diversity", type=Number(min=0), help="Of groups: what a word costs that a group before has just said. Default: 0.5."),
    click.option("--temperature", type=Number(min=0, min_open=True), help="Draw words at random, above 1 with more surprise, below with less."),
    click.option("--top-k", metavar="K", type=click.IntRange(1), help="Draw from the K likeliest words."),
    click.option("--top-p", metavar="P", type=Number(min=0, max=1, min_open=True), help="Draw from the likeliest words that together reach P."),
    click.option("--sample-seed", "seed", metavar="SEED", type=click.IntRange(0, 2**63 - 1), help="Of what is drawn. Default: 0."),
    click.option("--least-words", "least_length", metavar="N", type=click.IntRange(0), default=0, help="Captions of N words at least."),
    click.option("--no-repeat", "no_repeat_trigram", is_flag=True, help="No three words twice in a caption."),
    click.option("--ban", metavar="WORD", multiple=True, help="Never say this word. May be repeated."),
)  # fmt: skip


def decoding_options(command: Callable[..., None]) -> Function:
    """Add the options to a command, which gets them as one `decoding`."""

    @functools.wraps(command)
    def call(*args: Any, **given: Any) -> None:
        decoding = Decoding(**{field.name: given.pop(field.name) for field in fields(Decoding)})
        command(*args, decoding=decoding, **given)

    for option in reversed(OPTIONS):
        call = option(call)
    return call
