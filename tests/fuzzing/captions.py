"""Captions files, split lists and archives of features, as `prepare` is given them."""

import io
import random
from pathlib import Path

import numpy as np

from fuzzing.mutate import spoil_bytes
from xpcap.data.flickr8k import import_flickr8k

NAMES = [f"picture {i}.jpg" for i in range(12)]
TOKENS = "".join(f"{name}#{k}\tA {colour} dog {k} runs .\n" for name in NAMES for k, colour in enumerate(("red", "blue", "Grün")))
LISTS = {"train": "\n".join(NAMES[:8]), "val": "\n".join(NAMES[8:])}
PIECES = (
    "\t", "#", "#1\t", "\n", "\r\n", "\0", "\ufeff", "\u2028", "\x1b[31m", "é", "\u202e", "<script>", "../", "/", "picture 3.jpg", "#" * 5000, "1" * 5000,
    "a " * 50_000, " ", "picture 1.jpg#0\tdog\n", "#1" * 5000, "\x85", "\x1c", "9" * 400 + "\t",
)  # fmt: skip


class Kind:
    """A dozen pictures, with one of the files spoilt."""

    def __init__(self, place: Path) -> None:
        archive = io.BytesIO()
        np.savez_compressed(archive, names=NAMES, features=np.random.default_rng(0).standard_normal((12, 5)).astype("f4"))
        self._features = archive.getvalue()

    def make(self, draw: random.Random, folder: Path) -> None:
        files = {"tokens.txt": TOKENS, **{f"{name}.txt": text for name, text in LISTS.items()}}
        spoilt = draw.choice((*files, "tokens.txt", "features.npz", "features.npz"))
        for name, text in files.items():
            (folder / name).write_bytes(_spoil_text(draw, text) if name == spoilt else text.encode())
        (folder / "features.npz").write_bytes(_spoil_archive(draw, self._features) if spoilt == "features.npz" else self._features)

    def use(self, folder: Path) -> None:
        lists = {name: folder / f"{name}.txt" for name in LISTS}
        import_flickr8k(folder / "tokens.txt", lists, folder / "features.npz", min_count=1)


def _spoil_text(draw: random.Random, text: str) -> bytes:
    if draw.random() < 0.3:
        return spoil_bytes(draw, text.encode())
    for _ in range(draw.choice((1, 1, 2, 6))):
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice(PIECES) * draw.choice((1, 1, 1, 3)) + text[at + draw.choice((0, 0, 1, 30)) :]
    return text.encode("utf-8" if draw.random() < 0.9 else "utf-16")


def _spoil_archive(draw: random.Random, content: bytes) -> bytes:
    """Bytes of the archive, or one that is whole and holds other things."""
    if draw.random() < 0.6:
        return spoil_bytes(draw, content)
    names = draw.choice((NAMES, NAMES[:5], [*NAMES, NAMES[0]], [name.encode() for name in NAMES], list(range(12)), [NAMES], [], ["\x1b"] * 12, "x"))
    shape = draw.choice(((12, 5), (12, 0), (0, 5), (12,), (12, 5, 1), (5, 12), ()))
    kind = draw.choice(("f4", "f8", "f2", "i4", "c8", ">f4", "?", "U3", "S2", "M8[s]"))
    with np.errstate(all="ignore"):
        features = np.full(shape, draw.choice((0, 1, 3)), "f4").astype(kind)
    if features.dtype.kind == "f" and features.size and draw.random() < 0.5:
        features.reshape(-1)[0] = draw.choice((np.nan, np.inf))
    archive = io.BytesIO()
    arrays = {"names": names, "features": features, "more": np.zeros(3)}
    for name in draw.sample(sorted(arrays), draw.choice((0, 0, 0, 1))):
        del arrays[name]
    draw.choice((np.savez, np.savez_compressed))(archive, **arrays)  # type: ignore[arg-type]
    return archive.getvalue()
