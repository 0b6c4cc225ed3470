"""Writing in one piece: the old file or the new one, never a half, and nothing left lying about."""

from pathlib import Path

import pytest

from xpcap.files import atomic, write_text


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def half() -> None:
        with atomic(path) as temporary:
            temporary.write_text("new, but only ha")
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
