"""Convert text to words and ids, and back: tokeniser, vocabulary, the course's decode_captions."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.backend.shape_specs import check_range
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError
from xpcap.metrics.metric import require_words
from xpcap.options import Flag, Whole

TOKENISER = "unicode"  # name of `tokenize` in files
TOKENISATION = (  # printed with scores
    "words are lower-case runs of letters, marks and digits, and single characters of scripts"
    " without spaces"
)
_ASCII = re.compile("[a-z0-9]+")
# soft hyphen, combining grapheme joiner, word joiner, byte order mark, variation selectors
_INVISIBLE = re.compile("[\u00ad\u034f\u2060\ufeff\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def tokenize(text: str) -> list[str]:
    """The words of a text.

    The text, in lower case and NFC, is split into runs of letters, marks and digits of any script.
    In scripts that are written without spaces, such as Chinese, Japanese, Thai, Lao, Khmer and
    Burmese, each letter is a word, together with its marks.

    Examples
    --------
    >>> tokenize("A dog's 2nd ball!")
    ['a', 'dog', 's', '2nd', 'ball']
    """
    if text.isascii():
        return _ASCII.findall(text.lower())
    return [str(word) for word in _regex(_WORD).findall(_normalized(text))]


def has_word(text: str) -> bool:
    """True if `tokenize` finds a word."""
    pattern = _ASCII if text.isascii() else _regex(_WORD)
    return pattern.search(_normalized(text)) is not None


def detokenize(words: Sequence[str]) -> str:
    """Words as a line of text, with `gaps` between them."""
    text = " ".join(words)
    if text.isascii():
        return text
    return "".join(word + gap for word, gap in zip(words, gaps(words), strict=True))


def gaps(words: Sequence[str]) -> list[str]:
    """The space after each word of a line; "" after the last, and between unspaced scripts.

    Words of unspaced scripts get a space if they would read as one, such as a letter and a vowel sign.
    """
    unspaced = [not word.isascii() and _regex(_LETTER).match(word) is not None for word in words]
    return [
        ""
        if pair == (True, True) and not _regex(_ATTACHED).match(word + following, len(word))
        else " "
        for pair, (word, following) in zip(
            itertools.pairwise(unspaced), itertools.pairwise(words), strict=True
        )
    ] + [""] * bool(words)


def _normalized(text: str) -> str:
    """Lower case, in NFC, without invisible characters and the dot of a lower-case Turkish İ."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text.lower()).replace("i\u0307", "i"))


# Line_Break=SA has the scripts of South East Asia that are written without spaces; script extensions
# (scx) include signs that two scripts share, such as ー of the kana
_LETTER = r"[[\p{L}\p{Nl}]&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Line_Break=SA}]]"
_MARK = r"[\p{Mn}\p{Mc}]"
_ATTACHED = (  # the vowel sign AM of Thai and Lao; consonants that Khmer and Burmese stack
    r"[\u0e33\u0eb3]|(?<=\p{InSC=Invisible_Stacker})\p{L}"
)
_OTHER = rf"[[\p{{L}}\p{{Nd}}]--{_LETTER}]"
_JOINER = rf"[\u200c\u200d](?={_OTHER}|{_MARK})"  # within words, as in Persian
_WORD = rf"{_LETTER}(?:{_MARK}|{_ATTACHED})*|{_OTHER}(?:{_OTHER}|{_MARK}|{_JOINER})*"


@cache
def _regex(pattern: str) -> Any:
    import regex  # Python's re lacks Unicode properties

    return regex.compile(f"(?V1){pattern}")


NULL, START, END, UNK = SPECIAL = ("<NULL>", "<START>", "<END>", "<UNK>")
_SILENT = frozenset(SPECIAL)


class Vocabulary:
    """Words and their ids; id k is the k-th word.

    words : distinct words without white space, including ``<NULL>``, ``<START>``, ``<END>`` and
        ``<UNK>``
    DataError : a word is repeated, is empty or has white space, or a special word is missing.

    Examples
    --------
    >>> vocabulary = Vocabulary.build(["A dog runs.", "A dog."], min_count=2)
    >>> vocabulary.idx_to_word
    ['<NULL>', '<START>', '<END>', '<UNK>', 'a', 'dog']
    >>> vocabulary.encode(["A dog runs."], max_words=4)
    array([[1, 4, 5, 3, 2, 0]], dtype=int32)
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.idx_to_word = list(words)
        among = f"among {len(self.idx_to_word)} words"
        if odd := [word for word in self.idx_to_word if not isinstance(word, str)]:
            raise DataError(f"{odd[0]!r} {among} is a {type(odd[0]).__name__}, expected text")
        try:
            "".join(self.idx_to_word).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{error.object[error.start]!r} {among} is not a character, expected UTF-8 text"
            ) from error
        if malformed := [word for word in self.idx_to_word if word.split() != [word]]:
            raise DataError(
                f"{malformed[0][:60]!r} {among} is empty or has white space in it, expected single"
                " words"
            )
        self.word_to_idx = {word: i for i, word in enumerate(self.idx_to_word)}
        if len(self.word_to_idx) != len(self.idx_to_word):
            twice = [word for word, n in Counter(self.idx_to_word).items() if n > 1]
            raise DataError(
                f"the vocabulary repeats words: {len(twice)} (such as {twice[0][:60]!r}), expected each word once"
            )
        if missing := [word for word in SPECIAL if word not in self.word_to_idx]:
            raise DataError(
                f"{', '.join(missing)} missing {among}, expected all of {', '.join(SPECIAL)}"
            )
        self.null, self.start, self.end, self.unk = (self.word_to_idx[word] for word in SPECIAL)

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int) -> "Vocabulary":
        """The words that occur at least `min_count` times in `texts`, most frequent first, then A to Z.

        TypeError : `texts` is a text, not a list. OptionError : `min_count` is invalid.
        """
        if isinstance(texts, str):
            raise InvalidTypeError(f"texts is the text {texts[:40]!r}, expected a list of texts")
        return cls.build_from_words((tokenize(text) for text in texts), min_count)

    @classmethod
    def build_from_words(
        cls, captions: Iterable[Sequence[str]], min_count: int, *, max_size: int | None = None
    ) -> "Vocabulary":
        """`build` for captions that are lists of words; keeps at most `max_size` words."""
        min_count = Whole().check("`min_count`", min_count)
        max_size = Whole(optional=True).check("`max_size`", max_size)
        counts: Counter[str] = Counter()
        for caption in captions:
            require_words("a caption", [caption])
            counts.update(caption)
        frequent = sorted(
            (word for word, n in counts.items() if n >= min_count),
            key=lambda word: (-counts[word], word),
        )
        return cls([*SPECIAL, *frequent[:max_size]])

    def union(self, other: "Vocabulary") -> "Vocabulary":
        """These words with their ids, then further words of the other vocabulary."""
        new = [word for word in other.idx_to_word if word not in self.word_to_idx]
        return Vocabulary([*self.idx_to_word, *new])

    def __len__(self) -> int:
        return len(self.idx_to_word)

    def encode(self, texts: Sequence[str], max_words: int) -> np.ndarray:
        """Captions as ids (n, max_words + 2), int32: START, words (perhaps UNK), END, NULL."""
        if isinstance(texts, str) or max_words < 1:
            raise InvalidValueError(
                f"Vocabulary.encode got {type(texts).__name__} and max_words {max_words}, expected a list of captions"
                " and max_words of at least 1"
            )
        return self.encode_words([tokenize(text) for text in texts], max_words)

    def encode_words(self, captions: Sequence[Sequence[str]], max_words: int) -> np.ndarray:
        """`encode` for captions that are lists of words."""
        require_words("a caption", captions)
        encoded = np.full((len(captions), max_words + 2), self.null, np.int32)
        for row, words in zip(encoded, captions, strict=True):
            ids = [self.word_to_idx.get(word, self.unk) for word in words[:max_words]]
            row[: len(ids) + 2] = [self.start, *ids, self.end]
        return encoded

    def is_word(self, ids: np.ndarray) -> np.ndarray:
        """True for ids of words: all but ``<NULL>``, ``<START>`` and ``<END>``."""
        is_word: np.ndarray = (ids != self.null) & (ids != self.start) & (ids != self.end)
        return is_word

    def words_of(self, captions: np.ndarray) -> Iterator[list[str]]:
        """The words of each caption of ids (n, T), with ``<UNK>`` for unknown ones.

        ValueError : an id has no word.
        """
        check_range("captions", captions, len(self), "captions of another vocabulary?")
        for caption, inside in zip(captions, self.is_word(captions), strict=True):
            yield [self.idx_to_word[i] for i in caption[inside].tolist()]

    def words(self, caption: np.ndarray) -> list[str]:
        """The words of a caption of ids (T,), up to END, without special words.

        ValueError : an id has no word.
        """
        ids = caption.tolist()
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        if ids and not 0 <= min(ids) <= max(ids) < len(self):
            raise InvalidValueError(
                f"the caption holds {min(ids)}..{max(ids)}, expected 0..{len(self) - 1}; a caption"
                " of another vocabulary?"
            )
        return [word for i in ids if (word := self.idx_to_word[i]) not in _SILENT]


def decode_captions(
    captions: Array, idx_to_word: Sequence[str] | Mapping[int, str], *, special: bool = True
) -> str | list[str]:
    """Turn ids into text as the course does: without ``<NULL>``, and up to ``<END>``.

    Parameters
    ----------
    captions : array (T,) or (N, T), int
        On the host or a device.
    idx_to_word : list of str, or mapping of int to str
    special : bool
        Write ``<START>`` and ``<END>``, as the course does.

    Returns
    -------
    text : str, or list of N str
        One text for one caption, a list for a batch.

    Raises
    ------
    ValueError
        The captions are not integers of one of these shapes, or an id has no word.
    OptionError
        `special` is neither True nor False.

    Examples
    --------
    >>> decode_captions(np.array([1, 4, 5, 2, 0]), ["<NULL>", "<START>", "<END>", "<UNK>", "a", "dog"])
    '<START> a dog <END>'
    """
    special = Flag().check("`special`", special)
    ids = to_numpy(captions)
    if ids.ndim not in (1, 2) or (ids.size and ids.dtype.kind not in "iu"):
        raise InvalidValueError(
            f"captions have shape {ids.shape} and dtype {ids.dtype}, expected integer ids (T,) or"
            " (N, T)"
        )
    decoded = [
        _decode(row, idx_to_word, () if special else (START, END))
        for row in np.atleast_2d(ids).tolist()
    ]
    return decoded[0] if ids.ndim == 1 else decoded


def _decode(
    row: list[int], idx_to_word: Sequence[str] | Mapping[int, str], silent: Sequence[str]
) -> str:
    words = []
    for i in row:
        try:
            word = idx_to_word[i] if i >= 0 else None
        except (IndexError, KeyError):
            word = None
        if word is None:
            raise InvalidValueError(
                f"id {i} has no word among {len(idx_to_word)}; captions of another vocabulary?"
            )
        if word != NULL and word not in silent:
            words.append(word)
        if word == END:
            break
    return " ".join(words)
