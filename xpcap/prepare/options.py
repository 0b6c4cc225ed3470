"""The options of `import_captions` and `assemble`, as fields.

The command line makes its options, help texts and checks from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from typing import Any

from xpcap.data.dataset import MAX_WORDS, may_name_a_split
from xpcap.data.few import SPARSE_CAPTIONS, TINY_CAPTIONS
from xpcap.encoders import ENCODERS, PHOTOGRAPHS, Encoder, find_encoder
from xpcap.encoders.grid import MAX_REGIONS
from xpcap.encoders.kinds import encoder_name
from xpcap.errors import OptionError
from xpcap.options import SEED, Checked, Flag, Location, Whole, check_fields, documented, option
from xpcap.prepare.rows import ENCODING, Columns
from xpcap.prepare.splits import SPLITS, our_name

COUNT = Whole(1, 10**6)
KNOWN = ", ".join(f"{encoder.name} ({encoder.help})" for encoder in ENCODERS.values())


def _fractions(value: Any) -> list[float]:
    """Shares of train, val and test, together 1, from numbers or from text with commas."""
    shares = [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
    in_range = all(0 <= share <= 1 for share in shares)
    if in_range and 1 <= len(shares) <= len(SPLITS) and shares[0] and abs(sum(shares) - 1) <= 1e-6:
        return shares
    raise ValueError(value)


def _lists(value: Any) -> dict[str, Any]:
    """File by split, from a mapping or from texts NAME=LIST, whose NAME may be a synonym like dev."""
    if isinstance(value, Mapping):
        pairs = [*value.items()]
    else:
        pairs = [(split, file) for split, _, file in (text.partition("=") for text in value)]
    lists = {}
    for split, file in pairs:
        if not isinstance(split, str) or not may_name_a_split(split) or not file:
            raise ValueError(split)
        lists[our_name(split)] = Location().check("a list", file)
    if len(lists) < len(pairs):
        raise ValueError(value)
    return lists


def _encoder(value: Any) -> str | Encoder:
    """An encoder, or its name."""
    if isinstance(value, str) or all(hasattr(value, name) for name in ("name", "encode")):
        return value
    raise TypeError(value)


FRACTIONS = Checked(_fractions, "the shares of train, val and test, together 1, as in 0.8,0.1,0.1")
LISTS = Checked(
    _lists,
    "NAME=LIST for each split once, as in train=trainImages.txt; dev is another name of val",
    metavar="NAME=LIST",
    repeated=True,
)
ENCODER = Checked(_encoder, "an encoder, or the name of one")


@documented
@dataclass(frozen=True)
class AssembleOptions:
    """The options of `assemble`, checked, each and together.

    Raises
    ------
    OptionError
        A value is not of its option's kind, or two options contradict each other.
    """

    # fmt: off
    _: KW_ONLY
    features: InitVar[object] = None  # given, so that no picture is encoded; not stored
    pictures: str | Path | None = option(
        Location(), None, "Folder of pictures, with its subfolders, to show on pages, and to encode unless"
        " features are given.")
    encoder: str | Encoder | None = option(
        ENCODER, None, f"Encoder of the pictures, or of the features: {KNOWN}.")
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
        check_fields(self)
        self._check_together("features", features is not None)

    def _check_together(self, source: str, is_given: bool) -> None:
        """Check options that depend on each other and on given features, and set `mirror`.

        `source` is the parameter that gives features instead of pictures.
        """
        if not is_given and self.pictures is None:
            raise OptionError(
                f"neither `pictures` nor `{source}` is given, expected one or both; where do the"
                " features come from?"
            )
        if is_given and self.grid and self.encoder is None:
            raise _conflict(source, "grid", "the encoder of that grid as well")
        name = self.encoder or PHOTOGRAPHS
        if not isinstance(name, str):
            if self.grid:
                raise _conflict("grid", "encoder", "the name of an encoder")
            name = name.name
        if self.mirror is None:
            # Captions of drawings name left and right, so they do not fit mirror images
            object.__setattr__(self, "mirror", not is_given and not name.startswith("histogram"))

    def load_encoder(self) -> Encoder:
        """The encoder of the pictures, or the one that made the features."""
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
    OptionError
        A value is not of its option's kind, or two options contradict each other.
    """

    # fmt: off
    features_file: str | Path | None = option(
        Location(), None, "An .npz of your own features: 'names' (m,) and 'features' (m, D).")
    lists: Mapping[str, str | Path] | None = option(
        LISTS, None, "A split and a file with its pictures' names, one per line. Repeatable.")
    fractions: Sequence[float] | None = option(
        FRACTIONS, None, "Shares of train, val and test, if nothing else defines splits. Default:"
        " 0.8,0.1,0.1.")
    seed: int | None = option(
        SEED, None, "Seed of `fractions`. Default: 0.")
    encoding: str | None = option(
        ENCODING, None, "Encoding of text without a byte order mark, such as cp1252 of Excel's plain CSV."
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
        check_fields(self)
        if self.features_file is not None and self.mirror:
            raise _conflict("features_file", "mirror")
        self._check_together("features_file", self.features_file is not None)
        for name in ("fractions", "seed"):
            if self.lists and getattr(self, name) is not None:
                raise _conflict("lists", name)


def _conflict(option: str, other: str, expected: str = "one of them") -> OptionError:
    return OptionError(f"`{option}` and `{other}` are both given, expected {expected}")
