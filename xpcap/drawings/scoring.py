"""The metric of generated pictures: captions that name exactly the things of their scene."""

from xpcap.data.dataset import CaptionData, Source
from xpcap.drawings.grammar import named_things
from xpcap.metrics import Metric, per_picture

GENERATOR = "pictures-2"  # `generated` of a data set's source


# Every reference names all things of the scene, so the first one suffices
NAMED = per_picture(
    "named",
    "named exactly",
    "share of captions that name every object and nothing else",
    "share of captions that name exactly the (colour, shape) pairs of their scene, none missing and"
    " none made up",
    lambda references, words: named_things(words) == named_things(references[0]),
)


def is_generated(source: Source) -> bool:
    """True if the pictures of a data set were generated."""
    return source.generated == GENERATOR


def metrics_of(data: CaptionData) -> tuple[Metric, ...]:
    """The metrics of generated pictures, in addition to METRICS; empty for other data."""
    return (NAMED,) if is_generated(data.source) else ()
