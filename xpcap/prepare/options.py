"""The options of `import_captions` and `assemble`, as fields.

The command line makes its options, help texts and checks from them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.dataset import MAX_WORDS, may_name_a_split
from xpcap.data.few import SPARSE_CAPTIONS, TINY_CAPTIONS
from xpcap.encoders import ENCODERS, PHOTOGRAPHS, Encoder, find_encoder
from xpcap.encoders.grid import MAX_REGIONS
from xpcap.encoders.kinds import encoder_name
from xpcap.errors import OptionError
from xpcap.options import SEED, Flag, Location, OptionKind, Whole, check_fields, documented, option
from xpcap.prepare.rows import Columns, Encoding
from xpcap.prepare.splits import SPLITS, our_name

COUNT = Whole(1, 10**6)
KNOWN = ", ".join(f"{encoder.name} ({encoder.help})" for encoder in ENCODERS.values())


class Fractions(OptionKind):
    """Shares of train, val and test, as numbers or text with commas; `check` returns a list."""

    def __str__(self) -> str:
        return "the shares of train, val and test, together 1, as in 0.8,0.1,0.1"

    def parse(self, text: str) -> Any:
        try:
            return [float(part) for part in text.split(",")]
        except ValueError:
            return text

    def check(self, name: str, value: object) -> Any:
        parts = [*value] if isinstance(value, Iterable) and not isinstance(value, str) else []
        shares = all(
            isinstance(part, float | int | np.floating) and 0 <= part <= 1 for part in parts
        )
        if shares and 1 <= len(parts) <= len(SPLITS) and parts[0] and abs(sum(parts) - 1) <= 1e-6:
            return parts
        raise self.refusal(name, value)


class Lists(OptionKind):
    """Lists of pictures by split, as a mapping, or as texts NAME=LIST; `check` returns a dict.

    Synonyms of split names, such as dev, are replaced.
    """

    metavar = "NAME=LIST"
    repeated = True

    def __str__(self) -> str:
        return "NAME=LIST with a fresh name of letters, as in train=trainImages.txt"

    def parse(self, text: Any) -> Any:
        pairs = [pair.partition("=")[::2] for pair in text]
        return dict(pairs) if len(dict(pairs)) == len(pairs) else text

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, Mapping) and all(
            isinstance(split, str) and may_name_a_split(split) and file
            for split, file in value.items()
        ):
            lists = {our_name(split): Location().check(name, file) for split, file in value.items()}
            if len(lists) < len(value):
                raise OptionError(
                    f"{name} repeats a split: {', '.join(value)}, expected each split once; dev is"
                    " another name of val"
                )
            return lists
        raise self.refusal(name, value)


class EncoderKind(OptionKind):
    """An encoder, or its name."""

    def __str__(self) -> str:
        return "an encoder, or the name of one"

    def check(self, name: str, value: object) -> Any:
        if isinstance(value, str) or all(hasattr(value, name) for name in ("name", "encode")):
            return value
        raise self.refusal(name, value)


@documented
@dataclass(frozen=True)
class AssembleOptions:
    """The options of `assemble`, checked, each and together.

    Raises
    ------
    OptionError : a value is not of its option's kind, or two options contradict each other.
    """

    # fmt: off
    _: KW_ONLY
    features: InitVar[object] = None  # given, so that no picture is encoded; not stored
    pictures: str | Path | None = option(
        Location(), None, "Folder of pictures, with its subfolders, to show on pages, and to encode unless"
        " features are given.")
    encoder: str | Encoder | None = option(
        EncoderKind(), None, f"Encoder of the pictures, or of the features: {KNOWN}.")
    grid: int | None = option(
        Whole(1, MAX_REGIONS), None, "K, to encode K x K regions of each picture, for attention.")
    mirror: bool | None = option(
        Flag(), None, "Also encode mirror images of the train split. Default: yes, except for histogram.")
    min_count: int | None = option(
        COUNT, None, "Occurrences in the train split that a word needs; rarer words become"
        f" <UNK>. Default: 5; fewer than {SPARSE_CAPTIONS}: 2; fewer than {TINY_CAPTIONS.number}: 1.")
    vocabulary_size: int | None = option(
        COUNT, None, "Number of words, the most frequent of the train split, instead of `min_count`.")
    max_words: int = option(
        Whole(1, MAX_WORDS), 20, "Maximum number of words in a training caption; longer ones are cut.")
    float16: bool = option(Flag(), False, "Store features as float16, in half the space.")
    # fmt: on

    def __post_init__(self, features: object) -> None:
        self.check(features, "features")

    def check(self, features: object, given: str, *unfit: str) -> None:
        """Check all options, and set `mirror`; `unfit` options make no sense with given features."""
        check_fields(self)
        if features is None and self.pictures is None:
            raise OptionError(
                f"neither `pictures` nor `{given}` is given, expected one or both; where do the"
                " features come from?"
            )
        for name in unfit:
            if features is not None and getattr(self, name):
                raise _conflict(given, name)
        if features is not None and self.grid and self.encoder is None:
            raise _conflict(given, "grid", "the encoder of that grid as well")
        if self.grid and not isinstance(self.encoder or "", str):
            raise _conflict("grid", "encoder", "the name of an encoder")
        if self.mirror is None:
            # Captions of drawings name left and right, so they do not fit mirror images
            encoder = self.encoder or PHOTOGRAPHS
            name = encoder if isinstance(encoder, str) else encoder.name
            drawings = name.startswith("histogram")
            object.__setattr__(self, "mirror", features is None and not drawings)

    def load_encoder(self) -> Encoder:
        """The encoder of the pictures, or the one that made the features.

        DataError : there is no such encoder.
        """
        encoder = self.encoder or PHOTOGRAPHS
        if isinstance(encoder, str):
            return find_encoder(encoder_name(encoder, grid=self.grid))
        return encoder


@documented
@dataclass(frozen=True)
class PrepareOptions(AssembleOptions):
    """The options of `import_captions`, checked, each and together.

    Raises
    ------
    OptionError : a value is not of its option's kind, or two options contradict each other.
    """

    # fmt: off
    features_file: str | Path | None = option(
        Location(), None, "An .npz of your own features: 'names' (m,) and 'features' (m, D).")
    lists: Mapping[str, str | Path] | None = option(
        Lists(), None, "A split and a file with its pictures' names, one per line. Repeatable.")
    fractions: Sequence[float] | None = option(
        Fractions(), None, "Shares of train, val and test, if nothing else defines splits. Default:"
        " 0.8,0.1,0.1.")
    seed: int | None = option(
        SEED, None, "Seed of `fractions`. Default: 0.")
    encoding: str | None = option(
        Encoding(), None, "Encoding of text without a byte order mark, such as cp1252 of Excel's plain CSV."
        " Default: UTF-8.")
    strict: bool = option(
        Flag(), False, "Fail instead of skipping anything.")
    columns: Columns | None = None
    # fmt: on

    def __post_init__(self, features: object) -> None:
        if features is not None:
            raise OptionError(
                "`features` is given, expected `features_file`; or give the features to `assemble`"
            )
        self.check(self.features_file, "features_file", "mirror")
        for name in ("fractions", "seed"):
            if self.lists and getattr(self, name) is not None:
                raise _conflict("lists", name)


def _conflict(option: str, other: str, expected: str = "one of them") -> OptionError:
    return OptionError(f"`{option}` and `{other}` are both given, expected {expected}")
