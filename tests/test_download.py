"""`download` against a server of its own: the bytes arrive whole whatever breaks, and no archive gets out of its folder."""

import errno
import hashlib
import io
import json
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call, good
from test_cs231n import build_coco

from xpcap.data import download as downloading
from xpcap.data import fetching, load_coco_data, unpacking
from xpcap.data.download import ARCHIVES, Archive, Downloaded, download
from xpcap.data.fetching import Remote, amount
from xpcap.data.unpacking import Limits
from xpcap.errors import DataError

COCO = ARCHIVES["cs231n"]
Edit = Callable[[zipfile.ZipFile], None]


@dataclass
class Site:
    """What the server has, how it serves it, and what it was asked."""

    url: str
    body: bytes = b""
    tag: str = '"one"'
    ranges: bool = True
    shift: int = 0  # a part begins so many bytes later than it was asked to
    status: int = 200
    to: str = ""  # redirect there
    cuts: list[int] = field(default_factory=list)  # answers that stop after so many bytes, the first answer first
    asked: list[str] = field(default_factory=list)  # the Range of each request

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.asked.append(wanted)
        if self.to and handler.path != "/end.zip":
            handler.send_response(302)
            handler.send_header("Location", self.to)
            handler.end_headers()
            return
        if self.status != 200:
            handler.send_error(self.status)
            return
        start = int(wanted[6:-1]) if wanted and self.ranges and handler.headers.get("If-Range") in (None, self.tag) else 0
        start += self.shift if start else 0
        if start >= len(self.body) > 0:
            handler.send_error(416)
            return
        rest = self.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        handler.send_header("Content-Length", str(len(rest)))
        if self.tag:
            handler.send_header("ETag", self.tag)
        handler.end_headers()
        handler.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """A server whose /coco_captioning.zip is what `download cs231n` fetches, seen from an empty working folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        served = Site(f"http://127.0.0.1:{running.server_port}")
        offer(monkeypatch)(remote=replace(COCO.remote, url=f"{served.url}/coco_captioning.zip"))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        running.shutdown()
        thread.join()


def offer(patch: pytest.MonkeyPatch) -> Callable[..., Archive]:
    """Change the table's entry."""

    def change(**changes: Any) -> Archive:
        patch.setitem(downloading.ARCHIVES, "cs231n", replace(ARCHIVES["cs231n"], **changes))
        return ARCHIVES["cs231n"]

    return change


@pytest.fixture
def coco(site: Site, tmp_path: Path, rng: np.random.Generator) -> Path:
    """The folder, of the true layout, that the server has as an archive."""
    words = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(96))]
    folder = build_coco(tmp_path / "coco_captioning", {"idx_to_word": words, "word_to_idx": {w: i for i, w in enumerate(words)}}, rng)

    def fill(archive: zipfile.ZipFile) -> None:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")

    site.body = zipped(fill)
    return folder


def zipped(edit: Edit) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("coco_captioning")
        edit(archive)
    return stream.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def complete(folder: Path, coco: Path) -> bool:
    """Whether a folder has the server's files and nothing is left beside it."""
    here = contents(folder)
    names = {*contents(coco), "download.json"}
    recorded = json.loads(here.pop("download.json"))["files"].keys()
    return here == contents(coco) and recorded == here.keys() and contents(folder.parent).keys() == {f"{folder.name}/{name}" for name in names}


@pytest.mark.parametrize("place", ["datasets/coco_captioning", "cs231n/datasets/coco_captioning"])
def test_the_courses_reader_finds_what_the_command_downloads(coco: Path, site: Site, place: str) -> None:
    Path(place).parent.mkdir(parents=True)
    shown = good("download", "cs231n").output
    assert complete(Path(place), coco)
    assert shown.index(f"{amount(len(site.body))} from {site.url}") < shown.index(f"{place}: 10 files")
    np.testing.assert_array_equal(load_coco_data()["val_features"], load_coco_data(coco)["val_features"])
    assert "all there, checked" in good("download", "cs231n").output
    assert site.asked == [""]


def test_a_broken_download_goes_on_with_the_missing_bytes_alone(coco: Path, site: Site) -> None:
    """Within a call as long as there is progress, and in the next call after it gave up."""
    site.cuts = [70_000, 40_000, 0]
    with pytest.raises(DataError, match=r"broke off .* are kept: run the same command again"):
        download("cs231n")
    assert not Path("datasets/coco_captioning").exists()
    assert download("cs231n").fetched
    assert complete(Path("datasets/coco_captioning"), coco)
    assert site.asked == ["", "bytes=70000-", "bytes=110000-", "bytes=110000-"]


@pytest.mark.parametrize(
    ("before", "tags", "ranges", "said"),
    [
        (lambda body: body, ('"one"', '"one"'), True, "are here already"),
        (lambda body: body, ("", ""), True, "are here already"),
        (lambda body: body, ('"one"', '"one"'), False, "all of it again"),
        (lambda body: bytes(len(body)), ('"one"', '"two"'), True, "all of it again"),
        (lambda body: body + b"more", ("", ""), True, "what was here is removed"),
    ],
    ids=["same tag", "no tag", "no ranges", "another tag and bytes", "another size"],
)
def test_it_goes_on_only_if_the_server_has_the_same_file_and_sends_parts(
    coco: Path, site: Site, before: Callable[[bytes], bytes], tags: tuple[str, str], ranges: bool, said: str
) -> None:
    body = site.body
    site.body, site.tag, site.cuts = before(body), tags[0], [70_000, 0]
    with pytest.raises(DataError, match="broke off"):
        download("cs231n")
    site.body, site.tag, site.ranges = body, tags[1], ranges
    lines: list[str] = []
    download("cs231n", say=lines.append)
    assert said in "\n".join(lines)
    assert complete(Path("datasets/coco_captioning"), coco)


def test_a_part_from_another_place_is_not_appended(coco: Path, site: Site) -> None:
    site.cuts, site.shift = [70_000], 1
    with pytest.raises(DataError, match="asked to go on at byte 70,000; what was here is removed"):
        download("cs231n")
    download("cs231n")
    assert complete(Path("datasets/coco_captioning"), coco)


@pytest.mark.parametrize("notes", ["{", "[]", '{"url": 1, "validator": 2, "bytes": 3}', None])
def test_bytes_of_unknown_origin_are_not_built_upon(coco: Path, site: Site, notes: str | None) -> None:
    Path("datasets").mkdir()
    Path("datasets/coco_captioning.zip.part").write_bytes(b"something else")
    if notes:
        Path("datasets/coco_captioning.zip.part.json").write_text(notes)
    assert "all of it again" in good("download", "cs231n").output
    assert complete(Path("datasets/coco_captioning"), coco)
    assert site.asked == [""]


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(coco: Path, site: Site) -> None:
    site.ranges, site.cuts = False, [70_000] * 9
    with pytest.raises(DataError, match="broke off"):
        download("cs231n")
    assert len(site.asked) == 2


def test_what_is_here_is_longer_than_the_file_by_now(coco: Path, site: Site) -> None:
    good_body, site.body, site.cuts, site.tag = site.body, site.body + bytes(100_000), [len(site.body) + 50_000, 0], ""
    with pytest.raises(DataError, match="broke off"):
        download("cs231n")
    site.body = good_body
    download("cs231n")
    assert complete(Path("datasets/coco_captioning"), coco)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bytes": 5}, "bytes, expected 5; has it been replaced"),
        ({"sha256": "0" * 64}, "has SHA-256 [0-9a-f]{64}, expected 0000"),
        ({"most": 1000}, "expected at most 1,000 bytes"),
    ],
)
def test_another_size_or_digest_than_the_tables_is_refused(
    coco: Path, site: Site, change: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"bytes": len(site.body), "sha256": hashlib.sha256(site.body).hexdigest()}
    remote = ARCHIVES["cs231n"].remote
    offer(monkeypatch)(remote=replace(remote, **{**known, **change}))
    with pytest.raises(DataError, match=match):
        download("cs231n")
    assert not [name for name in contents(Path("datasets")) if name.endswith((".zip", ".part"))]
    offer(monkeypatch)(remote=replace(remote, **known))
    assert download("cs231n").files == 10


def test_an_archive_longer_than_allowed_is_cut_off_where_no_size_is_given(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetching, "_offered", lambda answer, remote: fetching.Notes(remote.url, "", None))
    site.body = bytes(300_000)
    with pytest.raises(DataError, match="sends more than 1,000 bytes"):
        fetching.fetch(Remote(f"{site.url}/x", None, None, most=1000), tmp_path / "x")
    assert fetching._size(tmp_path / "x.part") < 100_000


@pytest.mark.parametrize("way", ["404", "nobody", "file", "redirected to a file"])
def test_without_the_file_the_message_says_what_to_fetch_by_hand_and_where_it_goes(
    coco: Path, site: Site, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put there it is unpacked without a network, and kept."""
    (tmp_path / "secret").write_text("secret")
    site.status, site.to = (404 if way == "404" else 200), (f"file://{tmp_path}/secret" if way.startswith("redirected") else "")
    url = {"nobody": "http://127.0.0.1:1/coco_captioning.zip", "file": f"file://{tmp_path}/secret"}.get(way, ARCHIVES["cs231n"].remote.url)
    offer(monkeypatch)(remote=replace(COCO.remote, url=url))
    result = call("download", "cs231n", "--to", "data/coco")
    assert result.exit_code == 1
    assert f"{url} cannot be had" in result.output
    assert "put it at data/coco_captioning.zip and run the same command again" in result.output
    assert contents(Path("data")) == {}
    Path("data/coco_captioning.zip").write_bytes(site.body)
    assert "data/coco: 10 files" in good("download", "cs231n", "--to", "data/coco").output
    assert contents(Path("data")).keys() - {"coco_captioning.zip"} == {f"coco/{name}" for name in (*contents(coco), "download.json")}
    assert Path("data/coco_captioning.zip").read_bytes() == site.body


def test_redirects_to_http_are_followed(coco: Path, site: Site) -> None:
    site.to = "/end.zip"
    download("cs231n", "here")
    assert contents(Path("here")).items() >= contents(coco).items()


def linked(name: str, kind: int = stat.S_IFLNK) -> Edit:
    def edit(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    return edit


def named(*names: str) -> Edit:
    def edit(archive: zipfile.ZipFile) -> None:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), "x")

    return edit


OUT = "expected a relative one without"
HOSTILE: dict[str, tuple[Edit, str]] = {
    **{name: (named(name), OUT) for name in (
        "../x", "coco_captioning/../../x", "/etc/x", "C:/x", "C:x", "//host/x", "a/./b", "a//b", "..\\x", "C:\\x", "NUL", "a/con.txt", "a/b. ", "a\x1bb",
        "a\u202eb", "n" * 201,
    )},
    "a link": (linked("x"), "is a link or a device"),
    "a device": (linked("x", stat.S_IFCHR), "is a link or a device"),
    "a folder that is a link": (linked("x/"), "is a link or a device"),
    "upper case": (named("ab", "AB"), "a name twice"),
    "with and without the top": (named("x", "coco_captioning/x"), "a name twice"),
    "a file that is a folder": (named("x", "x/y"), "a name twice"),
    "many": (named(*(f"f{i}" for i in range(63))), "65 members, expected at most 64"),
    "a bomb": (lambda archive: archive.writestr("coco_captioning/bomb", bytes(60_000_000)), r"60\.0 MB once unpacked, expected at most 50\.0 MB"),
    "the record": (named("download.json"), "a file download.json"),
    "another compression": (lambda archive: archive.writestr("x", "x", zipfile.ZIP_BZIP2), "compressed in a way of its own"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(case: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, match = HOSTILE[case]

    def all_of_it(archive: zipfile.ZipFile) -> None:
        archive.writestr("coco_captioning/first", "innocent")
        edit(archive)

    offer(monkeypatch)(limits=Limits(64, 50_000_000))
    site.body = zipped(all_of_it)
    with pytest.raises(DataError, match=match):
        download("cs231n")
    assert contents(tmp_path).keys() == {"work/datasets/coco_captioning.zip", "work/datasets/.coco_captioning.zip.fetched"}


def test_a_name_is_judged_with_what_stands_behind_a_nul(site: Site) -> None:
    site.body = zipped(named("coco_captioning/first")).replace(b"/first", b"/f\x00/..")
    with pytest.raises(DataError, match=OUT):
        download("cs231n")


def test_a_list_of_members_that_would_fill_the_memory_is_not_read(site: Site) -> None:
    def comment(archive: zipfile.ZipFile) -> None:
        for number in range(20):
            info = zipfile.ZipInfo(str(number))
            info.comment = bytes(60_000)
            archive.writestr(info, "x")

    site.body = zipped(comment)
    with pytest.raises(DataError, match=r"a list of members of 1,2\d\d,\d\d\d bytes, expected at most 1,048,576"):
        download("cs231n")


def test_a_name_twice_in_the_same_spelling_is_refused(site: Site) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        site.body = zipped(named("x", "x"))
    with pytest.raises(DataError, match="a name twice"):
        download("cs231n")


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer than it says", "shorter than it says", "before the beginning", "no archive"])
def test_a_damaged_archive_is_told_and_no_damaged_file_is_left(coco: Path, site: Site, damage: str) -> None:
    body = bytearray(site.body)
    end, first = body.rindex(b"PK\x05\x06"), body.index(b"PK\x01\x02", body.rindex(b"PK\x03\x04"))
    match damage:
        case "cut":
            body = body[: len(body) // 2]
        case "flipped":
            body[len(body) // 2] ^= 1
        case "longer than it says" | "shorter than it says":
            at = body.index(b"PK\x01\x02", first + 4) + 24
            body[at : at + 4] = (int.from_bytes(body[at : at + 4], "little") + (1 if damage[0] == "s" else -1)).to_bytes(4, "little")
        case "before the beginning":
            body[end + 16 : end + 20] = (int.from_bytes(body[end + 16 : end + 20], "little") + 10).to_bytes(4, "little")
        case "no archive":
            body = bytearray(b"<html>moved</html>")
    site.body = bytes(body)
    with pytest.raises(DataError, match=r"coco_captioning\.zip is damaged .* remove it and run the same command again"):
        download("cs231n")
    assert contents(Path("datasets/coco_captioning")).items() <= contents(coco).items()
    assert not Path("datasets/coco_captioning/download.json").exists()


def test_files_that_are_there_are_compared_and_never_overwritten(coco: Path, site: Site) -> None:
    folder = Path("datasets/coco_captioning")
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    (folder / "train2014_urls.txt").write_bytes((coco / "train2014_urls.txt").read_bytes())
    (folder / "val2014_urls.txt").write_text((coco / "val2014_urls.txt").read_text().replace("_z", "_y"))
    before = contents(folder)
    with pytest.raises(DataError, match=r"val2014_urls\.txt is there and differs from coco_captioning\.zip"):
        download("cs231n")
    assert contents(folder) == before
    (folder / "val2014_urls.txt").unlink()
    stamp = (folder / "train2014_urls.txt").stat().st_ino
    download("cs231n")
    assert (folder / "train2014_urls.txt").stat().st_ino == stamp
    assert contents(folder).items() >= contents(coco).items() | {("mine.txt", b"mine")}
    assert site.asked == [""]  # the archive that could not be unpacked was kept


@pytest.mark.parametrize("name", ["coco2014_vocab.json", "coco2014_vocab.json/", "datasets/coco_captioning.zip.part"])
def test_no_link_is_followed(coco: Path, site: Site, name: str, tmp_path: Path) -> None:
    folder, victim = Path("datasets/coco_captioning"), tmp_path / "victim"
    folder.mkdir(parents=True)
    victim.mkdir() if name.endswith("/") else victim.write_text("dear")
    if name.endswith("/"):
        site.body = zipped(named("coco_captioning/coco2014_vocab.json/inner"))
    link = Path(name) if name.startswith("datasets") else folder / name.rstrip("/")
    link.symlink_to(victim)
    with pytest.raises(DataError, match="is a link"):
        download("cs231n")
    assert list(victim.iterdir()) == [] if victim.is_dir() else victim.read_text() == "dear"


@pytest.mark.parametrize("module", [fetching, unpacking])
def test_a_full_disk_loses_nothing(coco: Path, site: Site, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    true = module._write
    left = [3]

    def write(file: Any, part: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        true(file, part)

    monkeypatch.setattr(module, "_write", write)
    result = call("download", "cs231n")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert "damaged" not in result.output
    kept = contents(Path("datasets"))
    assert not [name for name in kept if re.search(r"[0-9a-f]{8}\.part$", name)]
    assert contents(Path("datasets/coco_captioning")).items() <= contents(coco).items()
    monkeypatch.setattr(module, "_write", true)
    download("cs231n")
    assert complete(Path("datasets/coco_captioning"), coco)
    assert site.asked == (["", f"bytes={len(kept['coco_captioning.zip.part'])}-"] if module is fetching else [""])


@pytest.mark.parametrize("free", [1000, 300_000])
def test_too_little_room_is_told_before_it_is_filled(coco: Path, site: Site, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site.body = zipped(lambda archive: archive.writestr("x", bytes(400_000))) if free > 1000 else site.body
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    with pytest.raises(DataError, match=r"free, expected .* for (coco_captioning\.zip|what the archive holds); make room"):
        download("cs231n")
    fetched = {"coco_captioning.zip", ".coco_captioning.zip.fetched"}
    assert contents(Path("datasets")).keys() == (fetched if free > 1000 else set())


@pytest.mark.parametrize("point", ["fetched", "noted", "half unpacked", "unpacked"])
def test_killed_anywhere_the_same_command_goes_on(coco: Path, site: Site, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched twice, and nothing is left over."""

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    def kill_at_five(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, progress: Any) -> None:
        if len(list(target.parent.iterdir())) == 5:
            target.with_name(f".{target.name}.0123abcd.part").write_text("half")
            raise Killed
        write_one(archive, info, target, progress)

    write_one = unpacking._write_one
    with monkeypatch.context() as patch:
        match point:
            case "fetched":
                patch.setattr(fetching, "_check_digest", kill)
            case "noted":
                patch.setattr(downloading, "unpack", kill)
            case "half unpacked":
                patch.setattr(unpacking, "_write_one", kill_at_five)
            case "unpacked":
                patch.setattr(downloading, "write_text", kill)
        with pytest.raises(Killed):
            download("cs231n")
    assert not Path("datasets/coco_captioning/download.json").exists()
    assert download("cs231n") == Downloaded(Path("datasets/coco_captioning"), 10, sum(map(len, contents(coco).values())), fetched=True)
    assert complete(Path("datasets/coco_captioning"), coco)
    assert site.asked == [""]


def test_a_folder_that_was_downloaded_is_checked_by_its_record(coco: Path, site: Site) -> None:
    folder = download("cs231n").folder
    (folder / "val2014_urls.txt").write_text("short")
    with pytest.raises(DataError, match=r"holds val2014_urls\.txt, which differ"):
        download("cs231n")
    (folder / "val2014_urls.txt").unlink()
    assert download("cs231n").fetched
    for record in ("{", '{"files": {"../x": [1, 2]}}', '{"files": {"x": ["1", 2]}}', "[]", '{"files": {"x": 3}}'):
        (folder / "download.json").write_text(record)
        with pytest.raises(DataError, match="is not the record of a download"):
            download("cs231n")


def test_two_at_once_do_not_mix_their_bytes(coco: Path, site: Site) -> None:
    Path("datasets").mkdir()
    with downloading._alone(Path("datasets/coco_captioning.zip")), pytest.raises(DataError, match="by another process"):
        download("cs231n")


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    result = call("download", "cs231")
    assert result.exit_code == 2
    assert "did you mean 'cs231n'?" in result.output
