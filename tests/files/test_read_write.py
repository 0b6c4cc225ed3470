"""Writing in one piece: the old file or the new one, never a half, and nothing left lying about."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from refusals import Refusal, refusals, refuses

from xpcap.errors import DataError, OptionError
from xpcap.files import read_write
from xpcap.files.read_write import (
    atomic,
    first_free,
    lock,
    new_folder,
    new_path,
    read_text,
    remove_parts,
    write_new,
    write_text,
)


def test_advice_on_a_full_disk_names_the_folder_that_is_there(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for folder in (tmp_path, tmp_path / "gone", tmp_path / "gone" / "too"):
        assert f"are free on the disk of {tmp_path})" in read_write.write_advice(full, folder)


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def half() -> None:
        with atomic(path) as file:
            file.write(b"new, but only ha")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "x", tmp_path / "file" / "x"):
        with pytest.raises(OSError, match=r".") as caught:
            write_text(path, "text")
        assert caught.value.filename == str(path)


@pytest.mark.parametrize("links", ["hard links", "none"])
@pytest.mark.parametrize("folder", [False, True])
def test_of_two_that_make_a_new_file_or_folder_at_once_one_wins_and_the_other_is_told(
    folder: bool, links: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if links == "none":

        def link(*paths: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "page.html"

    def make(part: Path, text: str) -> None:
        write_text(part / "text" if folder else part, text)

    new = new_folder if folder else new_path
    with (
        refuses(DataError, str(path), "is not overwritten"),
        new(path) as late,
    ):
        make(late, "late")
        with new(path) as early:
            make(early, "early")
    assert (path / "text" if folder else path).read_text() == "early"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["é\n", b"\x89PNG\n"])
def test_a_new_file_is_text_or_bytes_and_replaces_nothing(
    content: str | bytes, tmp_path: Path
) -> None:
    write_new(tmp_path / "new", content)
    with refuses(DataError, "is not overwritten"):
        write_new(tmp_path / "new", "other")
    wanted = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "new").read_bytes() == wanted
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]


def test_a_new_file_is_refused_before_any_work_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("theirs")
    (tmp_path / "link.csv").symlink_to("nowhere")
    for name, got in {
        "old.csv": "exists, and is not overwritten",
        "link.csv": "exists, and is not overwritten",
        "page.html": "does not end in .csv",
        ".csv": "does not end in .csv",
        "nowhere/a.csv": "nowhere, which is not a folder",
        "old.csv/a.csv": "old.csv, which is not a folder",
    }.items():
        with (
            refuses(OptionError, str(tmp_path / name), got),
            new_path(tmp_path / name, ".csv", OptionError),
        ):
            pytest.fail("work was done")
    assert (tmp_path / "old.csv").read_text() == "theirs"


def test_a_new_path_that_fails_leaves_nothing_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "made"

    def make(below: str) -> None:
        with new_folder(path) as part:
            write_text(part / below, "text")

    for below in ("", "nowhere/x"):
        with pytest.raises(OSError, match=r".") as caught:
            make(below)
        assert caught.value.filename == str(path / below)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r".") as caught, new_path(path):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")


def test_the_first_free_name_is_numbered_before_its_suffix(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = first_free(tmp_path, "a.b", ".html")
        path.mkdir()
        names.append(path.name)
    assert names == ["a.b.html", "a.b-2.html", "a.b-3.html"]


def test_only_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    others = {"notes.part", ".notes.part", ".x.0123ABCD.part"}
    for name in (".last.safetensors.0123abcd.part", *others):
        (tmp_path / name).write_text("")
    (tmp_path / ".pictures.89abcdef.part").mkdir()
    (tmp_path / ".pictures.89abcdef.part" / "val00000.png").write_text("")
    remove_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others


@refusals(
    """
    "none" | does not exist
    "" | is not a file
    "long" | has 5 bytes | a file, of at most 4 bytes
    "latin" | is not text
    "a" * 300 | cannot be read: File name too long
    """,
    error=DataError,
)
def test_text_is_read_up_to_a_size_and_from_files_alone(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes("grü".encode())
    (tmp_path / "long").write_bytes("grün".encode())
    (tmp_path / "latin").write_bytes(b"\xff")
    assert read_text(tmp_path / "short", 4, "a file") == "grü"
    refusal.check(globals() | locals(), 'read_text(tmp_path / ({}), 4, "a file")')


def test_a_lock_keeps_others_out_until_its_file_is_closed(tmp_path: Path) -> None:
    path, held = tmp_path / "file", DataError("file is locked")
    with path.open("a+b") as ours, path.open("a+b") as theirs:
        lock(ours, held)
        with refuses(DataError, "is locked"):
            lock(theirs, held)
    with path.open("a+b") as ours:
        lock(ours, held)


def test_a_disk_without_locks_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl, path = pytest.importorskip("fcntl"), tmp_path / "file"
    unsupported = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=unsupported))
    with path.open("a+b") as ours, pytest.raises(OSError, match="no file locks there") as caught:
        lock(ours, DataError("file is locked"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOLCK, str(path))
