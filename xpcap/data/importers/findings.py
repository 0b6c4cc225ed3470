"""Findings: what an import left out, by kind and with the first few names, and what else is worth saying."""

from collections import Counter

from xpcap.errors import DataError

NAMED = 3  # of each kind


class Findings:
    """What files turned out to be, what an import left out, and notes. Readers and what follows them add to one."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.forms: list[str] = []  # of the files, in their order
        self._named: dict[str, list[str]] = {}

    def skip(self, kind: str, name: str) -> None:
        """Count one thing that is left out. `kind` is a plural, such as ``captions without a word``; `name` says which one."""
        self.skipped[kind] += 1
        named = self._named.setdefault(kind, [])
        if len(named) < NAMED:
            named.append(name[:100])

    def lines(self) -> list[str]:
        """One line a kind: ``captions without a word: 4 (a.jpg, b.jpg, c.jpg, ...)``."""
        return [
            f"{kind}: {count:,} ({', '.join(self._named[kind])}{', ...' if count > len(self._named[kind]) else ''})"
            for kind, count in self.skipped.items()
        ]

    def refuse(self, where: str) -> None:
        """DataError : something was left out."""
        if self.skipped:
            raise DataError(f"{where}: {'; '.join(self.lines())}; expected nothing that must be left out, as `strict` asks")
