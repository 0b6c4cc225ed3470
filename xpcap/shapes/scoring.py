"""The metric of generated pictures: captions that name exactly the things of their scene."""

from collections.abc import Sequence

from xpcap.data.dataset import CaptionData
from xpcap.metrics import Metric, References, Scored, Words, averaged
from xpcap.shapes.grammar import named

KIND = "pictures"  # `generated` of a data set's source


class NamedExactly:
    """Share of captions that name exactly the things of their scene, by colour and shape."""

    name = "named"
    title = "named exactly"
    plain = "share of captions that name all the things there, and nothing else"
    protocol = (
        "share of captions that name exactly the (colour, shape) pairs of their scene, none missing"
        " and none made up"
    )

    def score(self, references: References, hypotheses: Sequence[Words]) -> Scored:
        """Corpus value ``named``; 1 or 0 for each picture."""
        # any reference names all that is there, so the first stands for the scene
        pairs = zip(references, hypotheses, strict=True)
        exact = [float(named(caption) == named(written[0])) for written, caption in pairs]
        return averaged(self.name, exact)


def metrics_of(data: CaptionData) -> tuple[Metric, ...]:
    """The metrics of generated pictures besides METRICS; none for any other data."""
    return (NamedExactly(),) if data.source.generated == KIND else ()
