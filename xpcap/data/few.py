"""Sizes of a train split below which defaults change: `Few` has the size, the change, and why.

Compare as in ``captions < FEW_CAPTIONS.number``. TABLE is printed in the docs.
"""

from typing import NamedTuple


class Few(NamedTuple):
    """A size of a train split; smaller ones are few."""

    number: int
    things: str  # captions, pictures or photos
    change: str  # what is different below the number
    reason: str

    def __str__(self) -> str:
        return f"{self.number:,} {self.things}"


TINY_CAPTIONS = Few(
    60,
    "captions",
    "`prepare` keeps every word; captions are copied from the most similar training photos",
    "too few to train on",
)
FEW_PICTURES = Few(
    250,
    "pictures",
    "`prepare` prints a notice",
    "from about this number on, with five captions each, captions begin to fit",
)
FEW_CAPTIONS = Few(
    1000,
    "captions",
    "`train` makes more passes in smaller batches, without smoothing or second stage, and keeps the"
    " last epoch",
    "a second stage would memorise them, and a small val split cannot choose an epoch",
)
FEW_PHOTOS = Few(
    2000,
    "photos",
    "references of the most similar photos are candidates, too; less similar photos weigh more",
    "with many photos such candidates gain nothing; with few, the nearest are further away",
)
SPARSE_CAPTIONS = Few(
    4000,
    "captions",
    "`prepare` keeps words that occur twice, instead of five times",
    "too few words occur five times",
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
