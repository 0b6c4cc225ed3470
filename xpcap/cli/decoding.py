"""Decoding options, which `caption` and `evaluate` share."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import click

from xpcap.cli.shared import Function
from xpcap.data.vocabulary import SPECIAL
from xpcap.errors import OptionError, nearest
from xpcap.models import Beam, Policy, Sampling
from xpcap.runs import Run, default_policy

OF_BEAMS = ("length_penalty", "n_best", "groups", "diversity")
OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True)
class Decoding:
    """Values of the decoding options; None if one was not given."""

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
    forbid: Sequence[str]
    greedy: bool

    def policy(self, run: Run, n_best: int = 1) -> Policy:
        """The policy for a run; a beam returns up to `n_best` captions, unless the option is given.

        Without an option that chooses one, it is the run's default.

        OptionError : options clash or are out of range, or a banned word is none of the run's.
        """
        limits = {
            "max_length": run.config["max_words"],
            "forbid": [self._id(run, word) for word in self.forbid],
            "least_length": self.least_length,
            "no_repeat_trigram": self.no_repeat_trigram,
        }
        beam, sampling = self._given(OF_BEAMS), self._given(OF_SAMPLING)
        if self.greedy and (self.width is not None or beam or sampling):
            other = "width" if self.width is not None else next(iter({**beam, **sampling}))
            raise OptionError(
                "decoding", f"`greedy` and `{other}`", "are given", expected="one or the other"
            )
        if self.width is None:
            ranked = run.ranker is not None and not (self.greedy or sampling)
            for name in beam:
                if not (ranked and name == "n_best"):
                    raise OptionError(
                        "decoding",
                        f"`{name}`",
                        "is given without `width`",
                        expected="both: it is of a beam",
                    )
            if ranked:
                return default_policy(run, **{"n_best": n_best, **beam}, **limits)
            return Sampling(**sampling, **limits) if sampling else Policy(**limits)
        for name in sampling:
            raise OptionError(
                "decoding",
                f"`width` and `{name}`",
                "are given",
                expected="one or the other: a beam draws nothing",
            )
        if "diversity" in beam and "groups" not in beam:
            raise OptionError(
                "decoding",
                "`diversity`",
                "is given without `groups`",
                expected="both: groups are what it makes differ",
            )
        return Beam(self.width, **{"n_best": max(1, min(n_best, self.width)), **beam}, **limits)

    def _given(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _id(self, run: Run, word: str) -> int:
        words = [known for known in run.vocabulary.idx_to_word if known not in SPECIAL]
        # A run may know Hund as hund
        is_word = word in words or word in SPECIAL
        tokens = [word] if is_word else run.vocabulary.tokenize(word)
        if len(tokens) > 1:
            raise OptionError(
                "decoding",
                "`forbid`",
                f"has {word!r}, which is {len(tokens)} words to {run.path}, {', '.join(tokens)}",
                expected="one",
            )
        if not set(tokens) & set(words):
            raise OptionError(
                "decoding",
                "`forbid`",
                f"has {word!r}, which no caption of {run.path} has",
                expected=f"one of its {len(words):,} words",
                cause=nearest(word, words),
            )
        return run.vocabulary.word_to_idx[tokens[0]]


N_BEST = click.option(
    "--n-best",
    metavar="N",
    type=int,
    help=(
        "Of a beam: the N best captions, with log-probabilities. Default: 1; 5 with --json or"
        " --html."
    ),
)
OPTIONS = (  # the policies check ranges, also for users of the library
    click.option(
        "--beam",
        "width",
        metavar="K",
        type=int,
        help=(
            "Beam search with K hypotheses. Default: a beam of 10, ranked by similar training"
            " photos, if the run has an index of them; else --greedy."
        ),
    ),
    click.option("--greedy", is_flag=True, help="Choose the likeliest word at each step."),
    click.option(
        "--length-penalty",
        metavar="A",
        type=float,
        help="Of a beam: rank captions by log-probability / words to this power. Default: 1.",
    ),
    N_BEST,
    click.option(
        "--groups",
        metavar="G",
        type=int,
        help="Of a beam: divide it into G groups with different captions. Default: 1.",
    ),
    click.option(
        "--diversity",
        metavar="D",
        type=float,
        help=(
            "Of groups: penalty for a word that an earlier group chose in the same step. Default:"
            " 0.5."
        ),
    ),
    click.option(
        "--temperature",
        metavar="T",
        type=float,
        help="Sample words; above 1 flattens the distribution, below 1 sharpens it.",
    ),
    click.option("--top-k", metavar="K", type=int, help="Sample from the K likeliest words."),
    click.option(
        "--top-p",
        metavar="P",
        type=float,
        help="Sample from the likeliest words that together reach probability P.",
    ),
    click.option(
        "--sample-seed",
        "seed",
        metavar="SEED",
        type=int,
        help="Sample words with this seed. Default: 0.",
    ),
    click.option(
        "--least-words",
        "least_length",
        metavar="N",
        type=int,
        default=0,
        help="Shortest caption, in words.  [default: 0]",
    ),
    click.option(
        "--no-repeat",
        "no_repeat_trigram",
        is_flag=True,
        help="Never generate the same three words twice in a caption.",
    ),
    click.option(
        "--ban",
        "forbid",
        metavar="WORD",
        multiple=True,
        help="Never generate this word. Repeatable.",
    ),
)


def decoding_options(n_best: bool) -> Callable[[Callable[..., None]], Function]:
    """Add the options to a command, as one `decoding`; --n-best only if `n_best`."""

    def add(command: Callable[..., None]) -> Function:
        @functools.wraps(command)
        def call(*args: Any, **given: Any) -> None:
            chosen = {field.name: given.pop(field.name, None) for field in fields(Decoding)}
            command(*args, decoding=Decoding(**chosen), **given)

        for option in reversed(OPTIONS):
            if n_best or option is not N_BEST:
                call = option(call)
        return call

    return add
