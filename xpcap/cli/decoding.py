"""Decoding options, which `caption` and `evaluate` share: fields of the policies."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from xpcap.cli.shared import Function, field_options
from xpcap.data.vocabulary import SPECIAL, tokenize
from xpcap.decoding.policies import PYTHON
from xpcap.errors import OptionError, nearest
from xpcap.models import Beam, Policy, Sampling
from xpcap.options import Option, described
from xpcap.runs.run import Run, default_policy

COMMON_OPTIONS = {name: limit for name, limit in described(Policy).items() if limit.role != PYTHON}
BEAM_OPTIONS, SAMPLING_OPTIONS = (
    {name: option for name, option in described(policy).items() if name not in described(Policy)}
    for policy in (Beam, Sampling)
)
OPTIONS = {**BEAM_OPTIONS, **SAMPLING_OPTIONS, **COMMON_OPTIONS}
NAMES = ("greedy", *OPTIONS, "forbid")
FLAGS = {
    "width": "--beam",
    "seed": "--sample-seed",
    "least_length": "--least-words",
    "no_repeat_trigram": "--no-repeat",
}
DEFAULTS = {
    "width": "10, reranked, if the run has an index of its training photos; else --greedy",
    "n_best": "1; 5 with --json or --html",
}


@dataclass(frozen=True)
class Decoding:
    """The decoding options that the user gave, by the policies' fields; and `greedy`.

    `forbid` holds words instead of ids.
    """

    options: Mapping[str, Any]
    command: str  # for messages

    @property
    def n_best(self) -> int | None:
        return self.options.get("n_best")

    def policy(self, run: Run, n_best: int = 1) -> Policy:
        """The policy that the options choose, or the run's default.

        A beam returns up to `n_best` captions, or the number of the option.

        OptionError : an option is out of range, or the run does not know a banned word.
        """
        limits = self._select(COMMON_OPTIONS)
        limits |= {
            "max_length": run.config.max_words,
            "forbid": [self._id(run, word) for word in self.options.get("forbid", ())],
        }
        beam = self._select(BEAM_OPTIONS)
        sampling = self._select(SAMPLING_OPTIONS)
        greedy = bool(self.options.get("greedy"))
        if "width" in beam:
            return Beam(**{"n_best": max(1, min(n_best, beam["width"])), **beam}, **limits)
        is_reranked = run.reranker is not None and not (greedy or sampling)
        if "n_best" in beam and not is_reranked:
            raise OptionError("`n_best` requires `width`")
        if is_reranked:
            return default_policy(run, **{"n_best": n_best, **beam}, **limits)
        return Sampling(**sampling, **limits) if sampling else Policy(**limits)

    def _select(self, names: Mapping[str, Option]) -> dict[str, Any]:
        return {name: self.options[name] for name in names if name in self.options}

    def _id(self, run: Run, word: str) -> int:
        words = [entry for entry in run.vocabulary.idx_to_word if entry not in SPECIAL]
        # A run may know Hund as hund
        is_word = word in words or word in SPECIAL
        tokens = [word] if is_word else tokenize(word)
        if len(tokens) > 1:
            raise OptionError(
                f"`forbid` has {word!r}, which is {len(tokens)} words to {run.path},"
                f" {', '.join(tokens)}, expected a single word"
            )
        if not set(tokens) & set(words):
            raise OptionError(
                f"`forbid` has {word!r}, which is not in the vocabulary of {run.path}, expected one"
                f" of its {len(words):,} words; {nearest(word, words)}"
            )
        return run.vocabulary.word_to_idx[tokens[0]]


def default_text(name: str, option: Option) -> str:
    """The default of an option, for its help."""
    is_unset = option.default is None or option.default is False
    return DEFAULTS.get(name, "" if is_unset else str(option.default))


def decoding_options(n_best: bool) -> Callable[[Callable[..., None]], Function]:
    """Add the options to a command as its argument `decoding`; --n-best only if `n_best`."""
    options = {name: option for name, option in OPTIONS.items() if n_best or name != "n_best"}

    def add(command: Callable[..., None]) -> Function:
        @functools.wraps(command)
        def call(*args: Any, **params: Any) -> None:
            values = {name: params.pop(name, None) for name in NAMES}
            values = {name: value for name, value in values.items() if value is not None}
            name = str(click.get_current_context().command.name)
            command(*args, decoding=Decoding(values, name), **params)

        decorated: Function = click.option(
            "--ban",
            "forbid",
            metavar="WORD",
            multiple=True,
            help="Never generate this word. Repeatable.",
        )(call)
        decorated = field_options(options, default_text, **FLAGS)(decorated)
        greedy = "Choose the likeliest word at each step."
        return click.option("--greedy", is_flag=True, help=greedy)(decorated)

    return add
