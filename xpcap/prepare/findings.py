"""Findings: what an import left out, by kind and with the first few names, and what else is worth saying."""

from collections import Counter
from collections.abc import Sequence

from xpcap.errors import DataError

NAMED = 3  # of each kind, and as many with a remark


class Findings:
    """What files turned out to be, what an import left out, and notes. Readers and what follows them add to one."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.forms: list[str] = []  # of the files, in their order
        self._named: dict[str, list[str]] = {}
        self._remarked: dict[str, list[str]] = {}

    def skip(self, kind: str, name: str, *, remark: str = "") -> None:
        """Count one thing that is left out. `kind` is a plural, such as ``captions without a word``; `name` says which one, `remark` why."""
        self.skipped[kind] += 1
        named = (self._remarked if remark else self._named).setdefault(kind, [])
        if len(named) < NAMED:
            named.append(f"{name[:100]} ({remark[:400]})" if remark else name[:100])

    def note(self, kind: str, names: Sequence[str]) -> None:
        """Note things that are not left out, by number and the first few names; nothing if there is none."""
        if names:
            self.notes.append(_listed(kind, len(names), [name[:100] for name in names[:NAMED]]))

    def lines(self) -> list[str]:
        """One line a kind: ``captions without a word: 4 (a.jpg, b.jpg, c.jpg, ...)``, those with a remark after those without."""
        return [_listed(kind, count, self._named.get(kind, []) + self._remarked.get(kind, [])) for kind, count in self.skipped.items()]

    def refuse(self, where: str) -> None:
        """DataError : something was left out."""
        if self.skipped:
            raise DataError(f"{where}: {'; '.join(self.lines())}; expected nothing that must be left out, as `strict` asks")


def _listed(kind: str, count: int, named: Sequence[str]) -> str:
    return f"{kind}: {count:,} ({', '.join(named)}{', ...' if count > len(named) else ''})"
