"""What `caption` and `write_captions` rely on, of every output that grows, and of a custom one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fixed_captioner import CAPTIONER, NAMES, UNREADABLE, FixedCaptioner

from xpcap.captioning.outputs import OUTPUTS, CsvTable, GrowingFile
from xpcap.distributed.work import work
from xpcap.errors import DataError
from xpcap.runs.records import PictureCaption

READABLE = [name for name in NAMES if name not in UNREADABLE]
ANY: Any = None  # a run that nobody asks


class TabbedLines(GrowingFile):
    """Texts with tabs between them, a row a line: an output of somebody's own."""

    suffix, start = ".tabs", "- "

    def encode(self, row: Sequence[str]) -> str:
        return "- " + "\t".join(row)

    def decode(self, line: str) -> Sequence[str]:
        return line.removeprefix("- ").split("\t")


KINDS = [*(kind for kind in OUTPUTS if issubclass(kind, GrowingFile)), TabbedLines]
pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def path(kind: type[GrowingFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # rows have paths from there
    return tmp_path / f"c{kind.suffix}"


def write(output: GrowingFile, names: list[str], captioner: str = CAPTIONER) -> list[str]:
    """Start or continue a file; returns the names of the pictures that were captioned."""
    return FixedCaptioner(captioner).write(names, output)


def kept(output: GrowingFile) -> list[str]:
    """The pictures that a file has, as it is continued."""
    with output as file:
        file.begin(ANY, CAPTIONER, [])
        return [name for name in NAMES if name in file]


def check_refused(
    output: GrowingFile, why: str, names: list[str] = NAMES, captioner: str = CAPTIONER
) -> None:
    """Writing is refused for this reason, and no byte of the file changes."""
    content = output.path.read_bytes()
    with pytest.raises(DataError, match=re.escape(why)):
        write(output, names, captioner)
    assert output.path.read_bytes() == content


def test_a_file_cut_at_any_byte_is_continued_to_the_bytes_of_one_never_cut(
    kind: type[GrowingFile], path: Path
) -> None:
    """Only the pictures without a whole row are captioned again."""
    ends: dict[str, int] = {}
    for name in NAMES:
        write(kind(path), [name])
        if name in READABLE:
            ends[name] = path.stat().st_size
    assert kept(kind(path)) == READABLE
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        asked = write(kind(path), NAMES)
        assert path.read_bytes() == content, f"cut to {cut}"
        assert asked == [name for name in NAMES if ends.get(name, len(content) + 1) > cut]


def test_a_row_of_others_is_told_by_its_line_and_no_byte_changes(
    kind: type[GrowingFile], path: Path
) -> None:
    """Of another captioner, with other fields, in another encoding, or not of such a file at all."""
    write(kind(path), NAMES[:1])
    content = path.read_bytes()
    *others, ours = content.splitlines()
    line = f"line {len(others) + 2}, "
    for row, why in {
        ours.replace(b"greedy", b"by hand"): "holds captions by Lauf; 2, by hand",
        b"[1]": "is '[1]' (",
        b"[" * 9_999: "is '[[[",
        b"": "is '' (",
        ours.decode().encode("cp1252"): "is '",
    }.items():
        path.write_bytes(content + row + b"\n" + content[:9])
        check_refused(kind(path), line + why)
    path.write_bytes(b"mine")
    check_refused(kind(path), "begins with b'mine'")
    path.write_bytes(content)
    check_refused(kind(path), "captions by other", captioner="other")
    check_refused(kind(path, best=3), "caption_3")


def test_a_second_command_that_writes_to_a_file_is_refused(
    kind: type[GrowingFile], path: Path
) -> None:
    with kind(path) as file:
        file.begin(ANY, CAPTIONER, NAMES)
        for name in NAMES[:2]:
            file.add(PictureCaption(name, "a dog", [], []))
            check_refused(kind(path), "is being written by another process")
    assert kept(kind(path)) == NAMES[:2]
    assert write(kind(path), NAMES) == NAMES[2:]


def test_a_row_without_room_is_an_error_that_names_the_file_and_is_made_again(
    kind: type[GrowingFile], path: Path
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    first, second = (PictureCaption(name, "a dog", [], []) for name in NAMES[:2])
    with kind(path) as file:
        file.begin(ANY, CAPTIONER, NAMES)
        file.add(first)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
        try:
            with pytest.raises(OSError, match=path.name):
                file.add(second)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        file.add(second)
    assert kept(kind(path)) == NAMES[:2]


def test_what_another_file_has_is_not_captioned_again(kind: type[GrowingFile], path: Path) -> None:
    """The texts come from there, and each file becomes what it is alone."""
    files = [(kind, path), (CsvTable, path.parent / "other.csv")]
    write(kind(path), NAMES)
    content = path.read_bytes()
    path.unlink()
    for (one, file), names in zip(files, (READABLE[:2], READABLE[1:4]), strict=True):
        write(one(file), names)
    notices: list[str] = []
    with work(on_notice=notices.append):
        asked = FixedCaptioner().write(NAMES, *(one(file) for one, file in files))
    assert asked == [name for name in NAMES if name not in READABLE[:4]]
    assert notices == [
        f"{file} has {rows} of {len(NAMES)} pictures already; adding the other {len(NAMES) - rows}"
        for (_, file), rows in zip(files, (2, 3), strict=True)
    ]
    assert path.read_bytes() == content
    assert kept(CsvTable(files[1][1])) == READABLE
