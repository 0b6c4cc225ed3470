"""Where captioned pictures are: a name as it stands, its last part, or its last part in one of the sub-folders."""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath

from xpcap.data.importers.features import leads_out, stay_in
from xpcap.encoders.reading import SUFFIXES
from xpcap.errors import DataError


def find_all(where: str, names: Sequence[str], known: Path | Container[str]) -> dict[str, str]:
    """Name to what it is called in `known`, a folder or names; those that are not there are left out.

    ``photos/a.jpg`` is also found as ``a.jpg``. In a folder, ``a.jpg`` is also found as ``train/a.jpg``, if one sub-folder alone has it.

    Raises
    ------
    DataError : a name leads out of the folder, or two names lead to one picture.
    """
    if isinstance(known, Path):
        if not known.is_dir():
            raise DataError(f"{where}: {known} is no folder, expected the one that holds the pictures")
        stay_in(where, known, names)
    files = _Files(known) if isinstance(known, Path) else known
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in names:
        last = PurePosixPath(name).name
        called = name if name in files else last if last in files else files.below(last) if isinstance(files, _Files) else None
        if called is None:
            continue
        if owner.setdefault(called, name) != name:
            raise DataError(f"{where}: {owner[called][:100]!r} and {name[:100]!r} both lead to {called[:100]!r}, expected a picture for each name")
        found[name] = called
    return found


def without_captions(folder: Path, used: Iterable[str]) -> list[str]:
    """Pictures directly in a folder that are not among the used ones, by name."""
    known = set(used)
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name not in known)


class _Files:
    """The files of a folder and, once they are asked for, of its sub-folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.top = {path.name for path in folder.iterdir() if not path.is_dir()}
        self.inside: dict[str, str] | None = None

    def __contains__(self, name: object) -> bool:
        if name in self.top:
            return True
        try:
            return "/" in str(name) and not leads_out(str(name)) and (self.folder / str(name)).is_file()
        except OSError:  # a name that no file can have
            return False

    def below(self, name: str) -> str | None:
        if self.inside is None:
            paths = [path for folder in sorted(self.folder.iterdir()) if folder.is_dir() for path in folder.iterdir()]
            counts = Counter(path.name for path in paths)
            self.inside = {path.name: f"{path.parent.name}/{path.name}" for path in paths if counts[path.name] == 1 and path.is_file()}
        return self.inside.get(name)
