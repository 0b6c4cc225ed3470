"""The table of options that require or exclude others, for all commands."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click
from click.core import ParameterSource

from xpcap.captioning.outputs import OUTPUTS
from xpcap.cli.decoding import BEAM_OPTIONS, SAMPLING_OPTIONS
from xpcap.errors import OptionError


class Needs(NamedTuple):
    """Each of the options requires one of the others."""

    options: Sequence[str]
    others: Sequence[str]
    reason: str = ""


class Excludes(NamedTuple):
    """None of the options may be combined with any of the others."""

    options: Sequence[str]
    others: Sequence[str]
    reason: str = ""


DECODING = (
    Excludes(["greedy"], [*BEAM_OPTIONS, *SAMPLING_OPTIONS]),
    Excludes(["width"], [*SAMPLING_OPTIONS], "a beam does not sample"),
    Needs(["diversity"], ["groups"], "it makes 2 or more groups differ"),
    # `n_best` is also allowed with a run's default beam
    Needs(
        [name for name in BEAM_OPTIONS if name not in {"width", "n_best", "diversity"}], ["width"]
    ),
)
# By command; the first broken rule is reported
RULES: Mapping[str, Sequence[Needs | Excludes]] = {
    "prepare": [Excludes(["min_count"], ["vocabulary_size"])],
    "evaluate": DECODING,
    "caption": [
        Excludes(["split", "count", "data"], ["pictures"], "give one or the other"),
        Needs(
            [output.flag.removeprefix("--") for output in OUTPUTS if output.needs_files],
            ["pictures"],
            "it writes to files or folders",
        ),
        *DECODING,
    ],
    "export": [
        Excludes(["onnx"], ["web"]),
        Excludes(["with_encoder"], ["web"], "a page always has the encoder"),
        Excludes(["runtime"], ["onnx"], "ONNX files do not contain a runtime"),
        Needs(["run"], ["onnx", "web"]),
    ],
    "verify": [
        Excludes(["against"], ["whole_class"]),
        Needs(["only", "html"], ["against"]),
        Needs(["expect", "seed", "seconds", "memory"], ["against", "whole_class"]),
        Excludes(["as_json"], ["whole_class"], "it prints CSV"),
        Excludes(["backend", "plain"], ["against", "whole_class"], "a submission is NumPy code"),
    ],
}


def check_rules() -> None:
    """Raise OptionError for the first rule that the options of the current command break."""
    context = click.get_current_context()
    command = str(context.command.name)
    given = {
        str(param.name)
        for param in context.command.params
        if context.get_parameter_source(str(param.name)) is not ParameterSource.DEFAULT
        and context.params.get(str(param.name), True) not in (None, ())  # `plain` has no value
    }

    def listed(names: Sequence[str], conjunction: str = "and") -> str:
        # The usage line's "[PICTURE|FOLDER|URL]..." does not fit into a sentence
        return f" {conjunction} ".join(
            name if name == "pictures" else f"`{name}`" for name in names
        )

    for rule in RULES[command]:
        excludes = isinstance(rule, Excludes)
        options, others = (
            [name for name in names if name in given] for names in (rule.options, rule.others)
        )
        if options and bool(others) == excludes:
            verb = "exclude" if excludes else "require"
            objects = listed(others) if excludes else listed(rule.others, "or")
            raise OptionError(
                f"{listed(options)} {verb}{('s' if len(options) == 1 else '')} {objects};"
                f" {rule.reason}"
            )
