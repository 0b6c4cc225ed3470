"""Selection: what tells the best epoch, and the score of captions that it may be."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData, spread
from xpcap.metrics.cider import CiderD

SELECT = ("loss", "cider")
MOST = 1000  # pictures, at most, that are captioned after an epoch
AT_ONCE = 250


class CaptionScore:
    """CIDEr-D of a model's greedy captions of the val split, for at most 1,000 pictures, spread evenly over it.

    How common an n-gram is, is told from the captions of those pictures: for a split of up to 1,000 the score is `evaluate`'s ``cider_d``.
    """

    def __init__(self, data: CaptionData) -> None:
        self._data = data
        written = data.reference_words("val")
        self._pictures = np.array(list(written))[spread(len(written), MOST)]
        self._score = CiderD([written[picture] for picture in self._pictures.tolist()])

    def __call__(self, model: Any, between: Callable[[], None]) -> float:
        """The score of a model now. `between` is called between batches; what it raises ends the scoring."""
        words, said = self._data.vocabulary, []
        for start in range(0, len(self._pictures), AT_ONCE):
            features = self._data.features("val", self._pictures[start : start + AT_ONCE])
            ids = model.sample(features, self._data.max_words, forbid=(words.null, words.start, words.unk))
            said += [words.words(caption) for caption in ids]
            between()
        return float(self._score.scores(said).mean())
