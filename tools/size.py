"""Count the lines of xpcap by language: of the package and of its tests by room, and of the rest.

    python tools/size.py CHECKOUT [--json]

A room is a file or folder at the top of `xpcap/` or `tests/`. Blank lines and comments count.
"""

from collections import Counter
from pathlib import Path

import measure_cli

LANGUAGES = {".py": "Python", ".cu": "CUDA", ".cuh": "CUDA", ".h": "C++", ".js": "JavaScript"}
PARTS = ("xpcap", "tests", "benchmarks", "tools")
BY_ROOM = ("xpcap", "tests")

Lines = dict[str, dict[str, Counter[str]]]  # by part, room, language


def count(checkout: Path) -> Lines:
    """Lines of each part of a checkout; a part without rooms has one, named as it is."""
    found: Lines = {}
    for part in PARTS:
        rooms = found.setdefault(part, {})
        for path in sorted((checkout / part).rglob("*")):
            language = LANGUAGES.get(path.suffix)
            if language is None or not path.is_file():
                continue
            room = path.relative_to(checkout / part).parts[0] if part in BY_ROOM else part
            lines = len(path.read_text(encoding="utf-8").splitlines())
            rooms.setdefault(room.removesuffix(".py"), Counter())[language] += lines
    return found


def show(found: Lines) -> None:
    languages = list(dict.fromkeys(LANGUAGES.values()))
    print(f"{'part':24}" + "".join(f"{language:>12}" for language in languages))
    for part, rooms in found.items():
        total: Counter[str] = sum(rooms.values(), Counter())
        by_size = sorted(rooms.items(), key=lambda room: -room[1].total())
        shown = [(part, total), *((f"  {name}", n) for name, n in by_size if part in BY_ROOM)]
        for name, n in shown:
            print(f"{name:24}" + "".join(f"{n[language]:12,}" for language in languages))


if __name__ == "__main__":
    measure_cli.run(__doc__, count, dict, show)
