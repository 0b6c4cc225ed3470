"""Selection: what tells the best epoch, and the score of captions that it may be."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData, spread
from xpcap.groups import ALONE, Group, batches
from xpcap.metrics.cider import CiderD
from xpcap.models import Policy
from xpcap.models.transcript import Transcript

SELECT = ("loss", "cider")
MOST = 1000  # pictures, at most, that are captioned after an epoch
AT_ONCE = 250


@dataclass(frozen=True, kw_only=True)
class _HalfStop(Policy):
    """Greedy decoding in which every other caption leaves the batch after its first word, as captions do that end."""

    def finished(self, transcript: Transcript) -> np.ndarray:
        ended = transcript.ended
        return ended | ((transcript.lengths > 0) & (np.arange(len(ended)) % 2 == 1))


class CaptionScore:
    """CIDEr-D of a model's greedy captions of the val split, for at most 1,000 pictures, spread evenly over it.

    How common an n-gram is, is told from the captions of those pictures: for a split of up to 1,000 the score is `evaluate`'s ``cider_d``.
    The ranks of `group` share the pictures out.
    """

    def __init__(self, data: CaptionData, group: Group = ALONE) -> None:
        self._data, self._group = data, group
        written = data.reference_words("val")
        self._pictures = np.array(list(written))[spread(len(written), MOST)]
        self._score = CiderD([written[picture] for picture in self._pictures.tolist()])
        self._forbid = data.vocabulary.null, data.vocabulary.start, data.vocabulary.unk

    def __call__(self, model: Any, between: Callable[[], None]) -> dict[str, float]:
        """Of a model's captions now the score, the share that differs, and the mean of their words.

        `between` is called between batches; what it raises ends the scoring.
        """
        words, mine = self._data.vocabulary, []
        for batch in batches(self._group, len(self._pictures), AT_ONCE):
            if len(pictures := self._pictures[batch]):
                ids = model.sample(self._data.features("val", pictures), self._data.max_words, forbid=self._forbid)
                mine += [words.words(caption) for caption in ids]
            between()
        said = [caption for share in self._group.collect(json.dumps(mine)) for caption in json.loads(share)]
        n = len(said)
        return {
            "val_cider": float(self._score.scores(said).mean()),
            "val_distinct": len({tuple(words) for words in said}) / n,
            "val_length": sum(map(len, said)) / n,
        }

    def warm_up(self, model: Any) -> None:
        """Caption a batch for three words, the fewest after which one that has ended leaves the batch on a device, which reads a step late."""
        model.sample(self._data.features("val", self._pictures[:AT_ONCE]), policy=_HalfStop(max_length=3, forbid=self._forbid))
