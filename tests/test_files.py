"""Writing in one piece: the old file or the new one, never a half, and nothing left lying about."""

import os
import sys
from pathlib import Path

import pytest
from refusals import refuses

from xpcap.files import atomic, read_text, remove_parts, write_text


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


def test_a_link_is_replaced_and_what_it_led_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "file", "ours")
    assert ((tmp_path / "elsewhere").read_text(), (tmp_path / "file").read_text()) == (
        "theirs",
        "ours",
    )


def test_only_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    for name in (
        ".last.safetensors.0123abcd.part",
        "notes.part",
        ".notes.part",
        ".x.0123ABCD.part",
    ):
        (tmp_path / name).write_text("")
    remove_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.part",
        ".notes.part",
        ".x.0123ABCD.part",
    }


def test_text_is_read_up_to_a_size_and_from_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("gr\u00fcn".encode())
    assert read_text(path, 5) == "gr\u00fcn"
    with refuses(ValueError, function="read_text", came="has 5 bytes", expected="at most 4"):
        read_text(path, 4)
    with refuses(ValueError, came="is a folder", expected="a file"):
        read_text(tmp_path, 4)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(path, 4)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with refuses(ValueError, came="a pipe or a device"):
        read_text(tmp_path / "pipe", 10)
