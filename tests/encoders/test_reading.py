"""Picture files to arrays: what a person would see of them, and one DataError for whatever cannot
be read.
"""

import io
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lying_files import png
from PIL import Image
from refusals import Refusal, refusals, refuses

from xpcap.distributed.work import work
from xpcap.encoders import find_pictures, pictures, read_picture
from xpcap.errors import DataError

ORIENTATION = 0x0112
Flip = Image.Transpose
STORED = {  # how a camera that was held so lays the upright picture down
    1: None,
    2: Flip.FLIP_LEFT_RIGHT,
    3: Flip.ROTATE_180,
    4: Flip.FLIP_TOP_BOTTOM,
    5: Flip.TRANSPOSE,
    6: Flip.ROTATE_90,
    7: Flip.TRANSVERSE,
    8: Flip.ROTATE_270,
}


def patches() -> np.ndarray:
    """Colours in 8 x 8 blocks, no two corners alike: (32, 48, 3)."""
    return np.kron(
        np.random.default_rng(3).integers(0, 256, (4, 6, 3), dtype=np.uint8),
        np.ones((8, 8, 1), np.uint8),
    )


def save(picture: Any, form: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    # Pillow leaves what it encoded a picture with on it, and fails at the next form
    if "append_images" in options:
        options["append_images"] = [each.copy() for each in options["append_images"]]
    picture.copy().save(file, form, **options)
    return io.BytesIO(file.getvalue())


def refused(source: Any, *texts: str) -> None:
    thing = str(source) if isinstance(source, Path) else "the picture"
    with refuses(DataError, thing, *texts):
        read_picture(source)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_picture_reads_like_the_upright_one(orientation: int, form: str) -> None:
    upright, exif = Image.fromarray(patches()), Image.Exif()
    exif[ORIENTATION] = orientation
    stored = upright if STORED[orientation] is None else upright.transpose(STORED[orientation])
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(form, {})
    read = read_picture(save(stored, form, exif=exif, **options))
    assert read.shape == (32, 48, 3)
    np.testing.assert_allclose(read.astype(int), patches(), atol=0 if form != "JPEG" else 12)


@pytest.mark.parametrize(
    "exif", [b"garbage", b"", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x05\x01\x12"]
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_with_damaged_exif_is_read_as_it_lies(form: str, exif: bytes) -> None:
    file = save(Image.fromarray(patches()), form, exif=b"Exif\0\0" + exif)
    assert read_picture(file).shape == (32, 48, 3)


PICTURE, GREY = Image.fromarray(patches()), np.asarray(Image.fromarray(patches()).convert("L"))
RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
FLOATS, WHOLE = RAMP.astype(np.float32), (RAMP * 65535).astype(np.int32)
PALETTE = Image.new("P", (3, 1))
PALETTE.putpalette([200, 0, 0, 0, 0, 250])
PALETTE.putdata([0, 1, 1])
RED, BLUE, WHITE = [200, 0, 0], [0, 0, 250], [255] * 3
GLASS = Image.fromarray(np.array([[[*RED, 0], [*RED, 128], [*RED, 255]]], np.uint8))
FRAMES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]


def grey(levels: np.ndarray) -> np.ndarray:
    return np.stack([levels] * 3, axis=-1)


READ: list[tuple[Any, str, dict[str, Any], Any, float]] = [
    (PICTURE.convert("L"), "PNG", {}, grey(GREY), 0),
    (PICTURE.convert("LA"), "PNG", {}, grey(GREY), 0),
    (PICTURE.convert("L"), "PPM", {}, grey(GREY), 0),
    (Image.fromarray(GREY > 127), "PNG", {}, grey(GREY > 127) * 255, 0),
    (PICTURE.quantize(64), "PNG", {}, patches(), 3),
    (PICTURE.convert("RGBA"), "PNG", {}, patches(), 0),
    (PICTURE.convert("CMYK"), "JPEG", {"quality": 100}, patches(), 6),
    (PICTURE.convert("CMYK"), "TIFF", {}, patches(), 1),
    (PICTURE, "JPEG", {"progressive": True, "quality": 100, "subsampling": 0}, patches(), 6),
    (PICTURE, "AVIF", {"quality": 100, "subsampling": "4:4:4"}, patches(), 6),
    (PICTURE, "BMP", {}, patches(), 0),
    (PICTURE, "PPM", {}, patches(), 0),
    # finer greys keep their lightness; what is no number is black
    (Image.fromarray(WHOLE.astype(np.uint16)), "PNG", {}, grey(RAMP * 255), 0.51),
    (Image.fromarray(WHOLE.astype(np.uint16)), "TIFF", {}, grey(RAMP * 255), 0.51),
    (Image.fromarray((WHOLE // 300).astype(np.uint16)), "PNG", {}, grey(RAMP * 0.85), 0.51),
    (Image.fromarray(WHOLE), "TIFF", {}, grey(RAMP * 255), 0.51),
    (Image.fromarray(WHOLE * 32767), "TIFF", {}, grey(RAMP * 255), 0.51),
    (Image.fromarray(FLOATS), "TIFF", {}, grey(RAMP * 255), 0.51),
    (Image.fromarray(FLOATS * 255), "TIFF", {}, grey(RAMP * 255), 0.51),
    (Image.fromarray(FLOATS * 1e30), "TIFF", {}, grey(RAMP * 255), 0.51),
    (
        Image.fromarray(np.float32([[np.nan, np.inf, -np.inf, 1]])),
        "TIFF",
        {},
        [[[0] * 3] * 3 + [WHITE]],
        0,
    ),
    # what is transparent becomes white, and half of it is blended
    (GLASS, "PNG", {}, [[WHITE, [227, 127, 127], RED]], 1),
    (GLASS, "TIFF", {}, [[WHITE, [227, 127, 127], RED]], 1),
    (Image.new("L", (1, 1), 9), "PNG", {"transparency": 9}, [[WHITE]], 0),
    (Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", {"transparency": (9, 8, 7)}, [[WHITE]], 0),
    (Image.new("I;16", (1, 1), 9), "PNG", {"transparency": 9}, [[WHITE]], 0),
    *((PALETTE, form, {}, [[RED, BLUE, BLUE]], 0) for form in ("PNG", "GIF")),
    *((PALETTE, form, {"transparency": 0}, [[WHITE, BLUE, BLUE]], 0) for form in ("PNG", "GIF")),
    # of several frames the first is read
    *(
        (
            FRAMES[0],
            form,
            {"save_all": True, "append_images": FRAMES[1:]},
            np.full((16, 16, 3), (255, 0, 0)),
            3,
        )
        for form in ("GIF", "WEBP", "PNG", "TIFF", "MPO")
    ),
]


@pytest.mark.parametrize(("image", "form", "options", "expected", "tolerance"), READ)
def test_files_of_every_kind_become_the_rgb_that_a_person_sees(
    image: Any, form: str, options: dict[str, Any], expected: Any, tolerance: float
) -> None:
    if form == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow writes no AVIF")
    read = read_picture(save(image, form, **options))
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.astype(int), expected, atol=tolerance)


def test_a_large_transparent_picture_is_blended_as_a_small_one_is() -> None:
    large = Image.new("RGBA", (1500, 10), (0, 0, 0, 0))
    large.paste((200, 0, 0, 255), (0, 0, 750, 10))
    read = read_picture(save(large, "PNG"))
    assert read.shape == (7, 1024, 3)
    assert (read[:, :505] == (200, 0, 0)).all()
    assert (read[:, 520:] == 255).all()


@pytest.mark.parametrize(
    ("size", "read"),
    [
        ((2048, 1536), (768, 1024)),
        ((300, 3000), (1024, 102)),
        ((1024, 9), (9, 1024)),
        ((5000, 1), (1, 1024)),
    ],
)
def test_a_large_picture_is_scaled_down_to_1024_whole(
    size: tuple[int, int], read: tuple[int, int]
) -> None:
    half = Image.new("RGB", size, "red")
    half.paste("blue", (0, 0, size[0] // 2, size[1]))
    for form in ("PNG", "JPEG"):
        picture = read_picture(save(half, form))
        assert picture.shape == (*read, 3)
        assert picture[read[0] // 2, 0, 2] > 250
        assert picture[read[0] // 2, -1, 0] > 250


PEAK = """
import resource, sys
from pathlib import Path
from xpcap.encoders import read_picture
def peak(name):
    read_picture(Path(name))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(-peak("small") + peak("large"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module tells the memory in use")
@pytest.mark.parametrize(
    ("mode", "form", "side", "most"), [("L", "JPEG", 8000, 20), ("I;16", "PNG", 4000, 70)]
)
def test_a_large_picture_takes_little_memory_beyond_what_its_format_decodes(
    mode: str, form: str, side: int, most: int, tmp_path: Path
) -> None:
    """A JPEG is decoded at a fraction of its size; a PNG of 16 bits takes 32 MB."""
    for name, pixels in (("large", side), ("small", 80)):
        Image.new(mode, (pixels, pixels), 90).save(tmp_path / name, form)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PEAK]
    taken = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert int(taken) < most * 1_000_000


# Pillow itself refuses the first two; there is no pixel in any of these
@refusals(
    """
    60_000, 60_000 | has too many pixels | scale it down first
    2**31 - 1, 1 | has too many pixels | scale it down first
    13_000, 13_000 | has 13000 x 13000 pixels | scale it down first
    7_000, 7_000 | cannot be read | damaged
    """,
    error=DataError,
)
def test_too_many_pixels_are_refused_by_the_header_alone(refusal: Refusal) -> None:
    refused(io.BytesIO(png(*eval(refusal.statement))), *refusal.texts)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_pixels_of_formats_that_take_more_memory_count_double(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if f".{form.lower()}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow does not write {form}")
    file, pixels = save(Image.fromarray(patches()), form), 32 * 48
    limit = pixels if form == "PNG" else 2 * pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert read_picture(file).shape == (32, 48, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit - 1)
    refused(file, f"48 x 32 pixels{'' if form == 'PNG' else f', which count double in {form}'}")


def test_a_picture_that_memory_does_not_suffice_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: Any) -> None:
        raise MemoryError

    (tmp_path / "a.png").write_bytes(png(9, 9))
    monkeypatch.setattr(Image.Image, "draft", no_room)
    refused(tmp_path / "a.png", "takes more memory")


PNG = save(PICTURE, "PNG").getvalue()
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(100)


@refusals(
    r"""
    "zeros.png", bytes(5000) | damaged
    "text.jpg", b"not a picture\n" * 50 | it is text
    "umlaut cut in two.jpg", "ä".encode() * 5000 | it is text
    "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>" | it is an HTML page
    "letter.jpg", b"%PDF-1.4\n\xe2\xe3" | it is a PDF; export it as JPEG
    "film.jpg", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50) | it is a video
    "camera.jpg", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(50) | it is a camera's RAW file; export it as JPEG
    "archive.jpg", b"PK\3\4" + bytes(50) | it is an archive
    "half.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF" | damaged
    "crc.png", PNG.replace(b"IHDR\0\0\0\x30", b"IHDR\0\0\0\x31") | damaged
    "data.png", PNG[:60] + bytes(20) + PNG[80:] | damaged
    "no data.png", png(8, 8) | damaged
    "no size.png", png(0, 5) | damaged
    "a.eps", EPS
    "b.jpg", EPS
    "c.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>" | it is text
    """,
    "cannot be read",
    "BMP or TIFF",
    error=DataError,
)
def test_what_is_no_picture_is_named(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is any other program started, such as Ghostscript."""
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: started.append(args))
    monkeypatch.setattr(os, "system", started.append)
    name, content = eval(refusal.statement)
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *refusal.texts)
    assert started == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("IMG_1.jpg", HEIC),
        ("IMG_1.HEIC", HEIC),
        ("a.heif", b"\0\0\0\x18ftypmif1\0\0\0\0mif1"),
        ("a.heic", bytes(99)),
    ],
)
def test_a_heic_is_known_by_its_bytes_and_the_message_names_what_reads_it(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "reads_heic", lambda: False)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / name).write_bytes(content)
    refused(
        tmp_path / name,
        "is a HEIC picture",
        "pip install 'pillow-heif>=1.0' installs pillow-heif",
        "export it as JPEG",
        "Most Compatible",
    )
    refused(io.BytesIO(HEIC), "is a HEIC picture")


def test_a_heic_is_read_upright_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the heic extra is not installed")
    assert pictures.reads_heic()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = Image.fromarray(patches()).rotate(90, expand=True)
    heif.from_pillow(turned).save(tmp_path / "a.heic", quality=-1, exif=exif.tobytes())
    heif.from_pillow(Image.fromarray(patches())).save(tmp_path / "plain.heic", quality=-1)
    for name in ("a.heic", "plain.heic"):
        found = read_picture(tmp_path / name).astype(int)
        assert found.shape == (32, 48, 3)
        assert abs(found - patches()).mean() < 8  # colours are stored in half the size
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:-300])
    refused(tmp_path / "cut.heic", "AVIF, HEIC, BMP or TIFF", "damaged")


@pytest.mark.parametrize("able", [True, False])
def test_formats_are_those_that_this_pillow_reads(
    able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import features

    monkeypatch.setitem(features.modules, "avif", features.modules["pil"])
    monkeypatch.setattr(features, "check", lambda name: able)
    monkeypatch.setattr(pictures, "reads_heic", lambda: False)
    (tmp_path / "a.jpg").write_bytes(AVIF)
    hint = (
        "damaged, or of another kind?"
        if able
        else "it is an AVIF picture, which this Pillow cannot read; a newer Pillow can"
    )
    expected = f"JPEG, PNG, GIF, {'WebP, AVIF, ' * able}BMP or TIFF"
    refused(tmp_path / "a.jpg", expected, hint)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_picture_that_breaks_off_is_refused(form: str) -> None:
    refused(io.BytesIO(b""), "is empty", "only in part?")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    whole = save(Image.fromarray(noise), form).getvalue()
    for part in (1, 4, 12, 30, len(whole) // 2, int(len(whole) * 0.9)):
        refused(io.BytesIO(whole[:part]), "cannot be read")


@pytest.mark.skipif(os.name != "posix", reason="Windows has other devices")
@refusals(
    r"""
    "none.jpg" | does not exist
    "" | is not a file
    "dangling.png" | does not exist
    "round.png" | does not exist
    "a" * 300 | File name too long
    "a\0b.png" | does not exist
    "/dev/zero" | is not a file
    "empty.jpg" | is empty
    """,
    error=DataError,
)
def test_what_is_no_file_is_refused_and_not_waited_for(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "round.png").symlink_to("round.png")
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / eval(refusal.statement), *refusal.texts)


def test_text_names_a_picture_as_well_as_a_path_does(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (9, 8, 7)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_picture(str(tmp_path / "a.png")), read_picture(tmp_path / "a.png")
    )
    assert find_pictures([str(tmp_path)]) == [tmp_path / "a.png"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_a_picture_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1, 1))
    (tmp_path / "a.png").chmod(0)
    refused(tmp_path / "a.png", "Permission denied", "may it be read?")


def test_names_and_links_of_any_kind_are_followed(tmp_path: Path) -> None:
    content = save(Image.fromarray(patches()), "PNG").getvalue()
    for name in (
        "two words.png",
        "line\nbreak.png",
        "Ωμέγα 🐕.png",
        "-n.png",
        "no suffix",
        "wrong.jpg",
        os.fsdecode(b"\xff\xfe.png"),
    ):
        try:
            (tmp_path / name).write_bytes(content)
        except OSError:
            continue  # not every file system takes every name
        np.testing.assert_array_equal(read_picture(tmp_path / name), patches())
    (tmp_path / "link.png").symlink_to("two words.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "link.png"), patches())


def test_damaged_bytes_give_a_picture_or_a_data_error_and_silence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Compressed TIFFs are left out: there the C library itself prints."""
    plain = "RGB BMP", "L PNG", "P PNG", "CMYK JPEG", "RGB TIFF", "F TIFF"
    rows: list[tuple[str, str, dict[str, Any]]] = [(*one.split(), {}) for one in plain]  # type: ignore[misc]
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    rows += [("RGB", form, {"exif": exif}) for form in ("JPEG", "PNG", "WEBP")]
    several = {"save_all": True, "append_images": [Image.fromarray(patches()[::-1].copy())]}
    rows += [("RGB", form, several) for form in ("GIF", "WEBP", "MPO")]
    files = [save(PICTURE.convert(mode), form, **extra).getvalue() for mode, form, extra in rows]
    rng = random.Random(5)
    read = 0
    for case in range(600):
        content = bytearray(files[case % len(files)])
        for _ in range(rng.choice((1, 3, 20))):
            place = rng.randrange(min(len(content), rng.choice((60, 400, 10**6))))
            content[place : place + rng.choice((1, 1, 2))] = rng.randbytes(
                rng.choice((0, 1, 1, 1, 2, 4))
            )
        try:
            found = read_picture(io.BytesIO(content))
        except DataError:
            continue
        read += 1
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
        assert 0 < max(found.shape) <= 1024
    assert 60 < read < 540
    assert capfd.readouterr() == ("", "")


def test_a_folder_gives_its_pictures_by_name_and_files_come_as_given(tmp_path: Path) -> None:
    names = ["b.JPG", "a.png", "C.jpeg", "d.Heic", "e.jfif", "z.webp"]
    for name in [*names, ".hidden.jpg", "._a.png", "film.mp4", "notes.txt", "png"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / "gone.gif").symlink_to(
        "nowhere"
    )  # called like a picture, and named when it cannot be read
    inside = [tmp_path / name for name in sorted([*names, "gone.gif"])]
    assert find_pictures([tmp_path]) == inside
    single = [tmp_path / "notes.txt", tmp_path / ".hidden.jpg", tmp_path / "none.png"]
    assert find_pictures([single[2], tmp_path, single[0], single[0], single[1]]) == [
        single[2],
        *inside,
        single[0],
        single[0],
        single[1],
    ]
    assert find_pictures([]) == []
    assert find_pictures(tmp_path) == find_pictures(str(tmp_path)) == inside


def test_a_folder_without_a_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "a.png").write_bytes(b"")
    assert find_pictures([tmp_path]) == [tmp_path / "deeper" / "a.png"]
    (tmp_path / "deeper" / "a.png").rename(tmp_path / "deeper" / "a.NEF")
    with refuses(DataError, "holds no picture, nor do its subfolders", "files that end in .jpg,"):
        find_pictures([tmp_path / "deeper" / "a.png", tmp_path])


def test_folders_inside_folders_are_searched_once_in_their_order_and_other_files_are_counted(
    tmp_path: Path,
) -> None:
    names = ["b.jpg", "2023/z.jpg", "2023/a/deep.png", "2024/a.jpg", "last/z.gif"]
    others = ["c.CR2", "2024/d.cr2", "2023/film.mp4", "no suffix"]
    hidden = [".a.jpg", ".thumbs/a.jpg", "2023/._a.jpg", "Thumbs.db", "last/desktop.ini"]
    for name in (*names, *others, *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "2024" / "round").symlink_to(tmp_path)
    (tmp_path / "2024" / "self").symlink_to("self")
    (tmp_path / "outside").mkdir()
    shutil.move(tmp_path / "2024", tmp_path / "outside" / "2024")
    (tmp_path / "2024").symlink_to("outside/2024")  # searched under the name that comes first
    remarks: list[str] = []
    with work(on_notice=remarks.append):
        assert find_pictures([tmp_path]) == [
            tmp_path / name
            for name in ("b.jpg", "2023/z.jpg", "2023/a/deep.png", "2024/a.jpg", "last/z.gif")
        ]
    counts = "2 .cr2, 2 without a suffix, 1 .mp4"
    assert remarks == [
        f"5 other files in {tmp_path} ignored: {counts}; RAW files of cameras cannot be read:"
        " export them as JPEG"
    ]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    for path in (tmp_path / "locked", tmp_path / "locked" / "a.png"):
        with refuses(DataError, "locked", "Permission denied"):
            find_pictures([path])


def test_content_images_and_arrays_are_read_as_their_file_is(tmp_path: Path) -> None:
    turned = Image.fromarray(patches()).rotate(90, expand=True)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = save(turned, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    expected = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(expected, patches())
    with Image.open(tmp_path / "a.png") as image:
        for source in (file.getvalue(), bytearray(file.getvalue()), image, expected):
            np.testing.assert_array_equal(read_picture(source), expected)
        assert image.size == (32, 48)  # as it was
    clear = np.dstack([patches(), np.full((32, 48), 255, np.uint8)])
    clear[0, 0, 3] = 0
    np.testing.assert_array_equal(read_picture(clear)[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(read_picture(clear)[1:], patches()[1:])
    grey = patches()[..., 0]
    np.testing.assert_array_equal(read_picture(grey), np.dstack([grey] * 3))
    assert read_picture(np.zeros((10, 3000, 3), np.uint8)).shape == (3, 1024, 3)


def test_an_image_that_was_opened_is_held_to_the_limit_of_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Image.open(io.BytesIO(png(7_000, 7_000))) as image:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with refuses(DataError, "the picture", "has 7000 x 7000 pixels"):
            read_picture(image)
