"""What the doctor says of one thing: a number, the limit it is held against, a verdict, and what to do."""

from dataclasses import dataclass
from typing import Any, NamedTuple

OK, CHECK, BAD, UNKNOWN = "ok", "check", "bad", "unknown"


class Finding(NamedTuple):
    """One number about a run, and what follows from it."""

    name: str  # key, as in the docs
    title: str  # what is measured
    value: float | None  # None if it could not be measured
    limit: float  # from here on it is worth checking
    verdict: str  # OK, CHECK, BAD or UNKNOWN
    text: str  # what it means, and what to do unless it is well
    row: tuple[str, str, str, str, str]  # as tables show it

    def to_json(self) -> dict[str, Any]:
        """As an object for JSON."""
        return {name: getattr(self, name) for name in ("name", "value", "limit", "verdict", "text")}


@dataclass(frozen=True)
class Symptom:
    """Something that the doctor measures.

    Parameters
    ----------
    name, title : as in Finding
    check, bad : limits of the verdicts; smaller numbers are worse if `bad` is the smaller one
    share : whether it is a share, to be shown in per cent
    """

    name: str
    title: str
    check: float
    bad: float
    share: bool = True

    def verdict(self, value: float) -> str:
        """OK, CHECK or BAD. A value at a limit is on its good side."""
        sign = 1 if self.bad > self.check else -1
        return BAD if sign * value > sign * self.bad else CHECK if sign * value > sign * self.check else OK

    def found(self, value: float, meaning: str, advice: str) -> Finding:
        """The finding for a value: its meaning in a sentence, with the advice unless all is well."""
        verdict = self.verdict(value)
        return self._finding(value, verdict, meaning if verdict == OK else f"{meaning} {advice}")

    def unknown(self, why: str) -> Finding:
        """The finding where nothing could be measured."""
        return self._finding(None, UNKNOWN, why)

    def _finding(self, value: float | None, verdict: str, text: str) -> Finding:
        limit = f"at {'most' if self.bad > self.check else 'least'} {self._shown(self.check)}"
        row = (verdict, self.name, "" if value is None else self._shown(value), limit, self.title)
        return Finding(self.name, self.title, value, self.check, verdict, text, row)

    def _shown(self, value: float) -> str:
        return f"{value:.1%}" if self.share else f"{value:.2f}"
