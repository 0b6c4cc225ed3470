"""Two sets of captions of the same pictures: how their scores differ, and how sure that is."""

from dataclasses import dataclass
from typing import Any

from xpcap.errors import DataError
from xpcap.metrics import ALIASES, Interval, paired
from xpcap.runs.scoring import Scores, figure


@dataclass(frozen=True)
class Comparison:
    """Scores of one side beside the other's, and their paired differences."""

    ours: Scores
    theirs: Scores
    differences: dict[str, float]  # name of each score of both to ours - theirs
    intervals: dict[str, Interval]  # name to the ends of the difference's 95 % interval, for scores that have one

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(name, ours, theirs, difference, interval or an empty string) of each score, as tables show them."""
        ours, theirs = self.ours.scores, self.theirs.scores
        return [
            (name, figure(ours[name]), figure(theirs[name]), signed(difference), " to ".join(map(signed, self.intervals.get(name, ()))))
            for name, difference in self.differences.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The other side's scores and the differences as one object for JSON."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {"scores": self.theirs.scores, "differences": self.differences, "intervals": ends}


def signed(value: float) -> str:
    """A difference as tables show it."""
    return f"{value:+}" if isinstance(value, int) else f"{value:+.3f}"


def compare(ours: Scores, theirs: Scores) -> Comparison:
    """Differences of all scores that both have.

    Both sides are resampled alike, so that what makes a picture easy for both cancels out: intervals of paired differences are narrower than
    those of two scores. An interval that does not hold 0 says that other pictures of this kind would most likely show a difference too.

    Raises
    ------
    DataError : they are not of the same pictures with the same references.
    """
    pairs = list(zip(ours.captions, theirs.captions, strict=False))
    odd = [one.image for one, other in pairs if (one.image, one.references) != (other.image, other.references)]
    if odd or ours.n != theirs.n:
        what = f"{ours.n:,} and {theirs.n:,} pictures" if ours.n != theirs.n else f"other pictures or references, from {odd[0][:100]!r} on"
        raise DataError(
            f"compare: the two sides have {what} in split {ours.split!r}, expected the same pictures and references; "
            "if they were trained on different files, give one of them as `data`"
        )
    mine, other = ours.scores, theirs.scores
    found = paired(*([result.scored.sums for result in side.results if result.scored.sums] for side in (ours, theirs)))
    found |= {alias: found[name] for alias, name in ALIASES.items() if name in found}
    return Comparison(ours, theirs, {name: value - other[name] for name, value in mine.items() if name in other}, found)
