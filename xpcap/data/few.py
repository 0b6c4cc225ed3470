"""Few: sizes of a train split below which something else is done, what, and why.

Compare with them as in ``captions < FEW_CAPTIONS.number``. The table of the docs is made of TABLE.
"""

from typing import NamedTuple


class Few(NamedTuple):
    """A size of a train split that is few if it is smaller."""

    number: int
    things: str  # that are counted
    change: str  # what is done with fewer
    reason: str

    def __str__(self) -> str:
        return f"{self.number:,} {self.things}"


TINY_CAPTIONS = Few(
    60,
    "captions",
    "`prepare` keeps every word, and captions are copied from the most similar training photos",
    "too few to train on alone; the captions that are copied need all their words",
)
FEW_PICTURES = Few(
    250,
    "pictures",
    "`prepare` prints a notice",
    "with five captions each, captions begin to fit at about this number",
)
FEW_CAPTIONS = Few(
    1000,
    "captions",
    "`train` makes more passes in smaller batches, without smoothing and without a second stage,"
    " and keeps the last epoch",
    "the second stage would learn them by heart, and so small a val split cannot tell which epoch is"
    " best",
)
FEW_PHOTOS = Few(
    2000,
    "photos",
    "people's captions of the most similar photos are candidates, too, and less similar photos weigh"
    " more",
    "of many photos such candidates gain nothing; of few the nearest are further away, and more of"
    " them count",
)
SPARSE_CAPTIONS = Few(
    4000,
    "captions",
    "`prepare` keeps words that occur twice; of more captions, those that occur five times",
    "of few captions, too few words occur five times",
)
MEDIUM_CAPTIONS = Few(
    20_000,
    "captions",
    "`train` takes smaller batches, at a lower learning rate",
    "larger batches would leave too few steps",
)
TABLE = (
    TINY_CAPTIONS,
    FEW_PICTURES,
    FEW_CAPTIONS,
    FEW_PHOTOS,
    SPARSE_CAPTIONS,
    MEDIUM_CAPTIONS,
)
