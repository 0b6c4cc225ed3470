"""Captions of new pictures by a run and its encoder: of files, folders, URLs, bytes and arrays."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.encoders import (
    Encoder,
    PictureSource,
    find_pictures,
    grid_area,
    is_url,
    read_picture,
    read_url,
)
from xpcap.errors import DataError, NetworkError
from xpcap.models import Captioner, Policy
from xpcap.progress import bar
from xpcap.report.records import PictureCaption, Postponed, Skipped
from xpcap.runs.decoder import Decoder
from xpcap.runs.run import Run, open_runs
from xpcap.threads import blas
from xpcap.work import work

BATCH = 64  # pictures captioned at once
THUMBNAIL = 320  # pixels of a downloaded picture's longer side, as many as a page or PNG shows


class Encoded(NamedTuple):
    """A picture that waits for its caption."""

    number: int
    name: str
    feature: np.ndarray
    picture: np.ndarray | None  # None: nothing shows it


@dataclass(frozen=True)
class PictureCaptioner:
    """A run and its encoder, opened once, to caption pictures of any kind.

    Pictures are paths; http and https URLs, as text; the contents of files as bytes, or files
    opened for reading bytes; Pillow images; and arrays of uint8, as `xpcap.encoders.read_picture`
    takes them. Text is a path or a URL: what a stranger sends is given as bytes.

    Several threads may caption at a time. A caption does not depend on the thread, nor on other
    pictures, but for the last bits of its probabilities, since pictures that are captioned together
    share matrix products.

    Parameters
    ----------
    run : Run
        Of `open_run` or `open_runs`.
    encoder : Encoder
        Of the run's features.
    """

    run: Run[Captioner]
    encoder: Encoder
    # Threads encode side by side, outside Python's lock. Decoding holds that, but for short products
    # between which it would change hands: two threads that decode are slower than one
    _decoding: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def caption(
        self,
        picture: PictureSource,
        *,
        policy: Policy | None = None,
        attend: bool = False,
        explain: bool = False,
    ) -> PictureCaption:
        """The caption of a picture.

        Parameters
        ----------
        picture : str, Path, bytes, file, PIL.Image.Image, or array (height, width, 3), uint8
        policy, attend, explain : Policy or None, and bool
            As in `caption_run`.

        Returns
        -------
        caption : PictureCaption
            Its `image` is the path, the URL, or the name of an open file; else empty.

        Raises
        ------
        DataError
            The picture cannot be read, for the reason in the message.
        ValueError, TypeError
            An array of another shape or dtype, or no picture at all.
        """
        _, feature = encode_picture("caption", picture, self.encoder)
        decoder = self.run.decoder(policy, attend, explain)
        (one,) = self._decode([Encoded(0, _name(picture), feature, None)], decoder)
        return one

    def captions(
        self,
        pictures: Iterable[PictureSource],
        *,
        policy: Policy | None = None,
        attend: bool = False,
        explain: bool = False,
        show: bool = False,
        numbers: Iterable[int] | None = None,
    ) -> "Iterator[PictureCaption | Skipped]":
        """Captions of many pictures, in their order.

        Pictures are read as the results are asked for, and decoded 64 at a time; no more are in
        memory. One that cannot be read is told at once, or after those that were read before it.

        Parameters
        ----------
        pictures : iterable
            Pictures in any form that `caption` takes.
        policy, attend, explain : Policy or None, and bool
            As in `caption_run`.
        show : bool
            Fill `picture` of each caption, of a URL with a thumbnail, and `area` of its attention.
        numbers : iterable of int, or None
            Numbers of the pictures, which seed a policy that samples. None: 0, 1, ...

        Yields
        ------
        caption : PictureCaption, or Skipped for a picture that cannot be read
        """
        decoder = self.run.decoder(policy, attend, explain)
        waiting: list[Encoded | Skipped] = []
        encoded = 0  # of those
        for source, number in zip(pictures, count() if numbers is None else numbers, strict=False):
            try:
                picture, feature = encode_picture("caption_files", source, self.encoder)
            except DataError as error:
                kind = Postponed if isinstance(error, NetworkError) else Skipped
                waiting.append(kind(_name(source), error.reason))
            else:
                name, shown = _name(source), picture if show else None
                if show and is_url(name):
                    shown = shrunk(picture)
                waiting.append(Encoded(number, name, feature, shown))
                encoded += 1
            if not encoded or BATCH in (encoded, len(waiting) - encoded):
                yield from self._decode(waiting, decoder)
                waiting, encoded = [], 0
        yield from self._decode(waiting, decoder)

    def _decode(self, waiting: Sequence[Encoded | Skipped], decoder: Decoder) -> Iterator[Any]:
        """Each encoded picture as a caption; those that were skipped as they are."""
        encoded = [one for one in waiting if isinstance(one, Encoded)]
        found: Iterator[PictureCaption] = iter(())
        if encoded:
            numbers, names, rows, _ = zip(*encoded, strict=True)
            with blas().turn(), self._decoding:  # in this order, so that none waits for the other
                features = self.run.preprocessing(np.stack(rows))
                found = iter(decoder(names, features, np.array(numbers)))
        for one in waiting:
            if isinstance(one, Encoded):
                yield with_picture(self.run, next(found), one.picture)
            else:
                yield one


def open_captioner(run: "Run[Captioner] | str | Path | Sequence[str | Path]") -> PictureCaptioner:
    """Open a run folder, or several as one, with its encoder, to caption pictures in a program.

    Parameters
    ----------
    run : str, Path or Run, or sequence of str or Path
        A run folder, several, or a run that is open.

    Returns
    -------
    captioner : PictureCaptioner

    Raises
    ------
    DataError
        As in `open_run`; or the run's features come from no encoder of this package, or from one
        whose package is missing.
    """
    if isinstance(run, Run):
        opened: Run[Any] = run
    else:
        opened = open_runs([run] if isinstance(run, str | Path) else run)
    return PictureCaptioner(opened, opened.encoder("open_captioner"))


def caption_files(
    run: Run[Captioner],
    paths: str | Path | Iterable[str | Path],
    *,
    progress: bool | None = None,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
    show: bool = False,
) -> tuple[list[PictureCaption], list[Skipped]]:
    """Captions of picture files, of pictures in folders (recursively), and of URLs.

    They go through the encoder that computed the run's features. Remarks name each folder's other
    files, and unreadable subfolders.

    Parameters
    ----------
    run : Run
    paths : str or Path, or iterable of them
        Files, folders and URLs, or one of them; text that begins with ``http://`` or ``https://``
        is a URL.
    progress : bool or None
        Show a progress bar on a terminal. None: as the work in hand does, by default not.
    policy, attend, explain : Policy or None, and bool
        As in `caption_run`.
    show : bool
        As in `PictureCaptioner.captions`.

    Returns
    -------
    captions : list of PictureCaption
        In the order of `paths`.
    skipped : list of Skipped
        One for each unreadable picture or URL, and each folder without a picture. URLs are limited
        as in `read_url`.

    Raises
    ------
    DataError
        The run's features come from no encoder of this package.
    """
    captioner = PictureCaptioner(run, run.encoder("caption_files"))
    captions: list[PictureCaption] = []
    with work(progress=progress):
        pictures, skipped = find_sources(paths)
        shown = bar(pictures, "captioning pictures", lines=True)
        for one in captioner.captions(
            shown, policy=policy, attend=attend, explain=explain, show=show
        ):
            if isinstance(one, Skipped):
                skipped.append(one)
            else:
                captions.append(one)
    return captions, skipped


def encode_picture(
    where: str, source: PictureSource, encoder: Encoder
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (h, w, 3), of a kind that PictureCaptioner takes, and its feature.

    DataError : it cannot be read, or its feature is not finite, which `where` begins.
    """
    picture = read_url(str(source)) if is_url(source) else read_picture(source)
    feature = encoder.encode([picture])[0]
    if not np.isfinite(feature).all():
        came = f"has a feature by the encoder {encoder.name} that is not finite"
        raise DataError(where, _name(source) or "the picture", came)
    return picture, feature


def with_picture(
    run: Run[Captioner], caption: PictureCaption, picture: np.ndarray | None
) -> PictureCaption:
    """A caption with its picture, if that is at hand, and the area that its attention covers."""
    if picture is None:
        return caption
    area = grid_area(run.source.encoder, picture) if caption.attention else None
    return caption._replace(picture=picture, area=area)


def shrunk(picture: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) with at most THUMBNAIL pixels on its longer side."""
    from PIL import Image

    small = Image.fromarray(picture)
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _name(source: PictureSource) -> str:
    """A path, URL or the name of an open file; else empty."""
    return str(source if isinstance(source, str | Path) else getattr(source, "name", None) or "")


def find_sources(
    paths: str | Path | Iterable[str | Path],
) -> tuple[list[str | Path], list[Skipped]]:
    """URLs as text and picture files as paths, in order; and the paths that hold none."""
    pictures: list[str | Path] = []
    skipped: list[Skipped] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            if is_url(path):
                pictures.append(str(path))
            else:
                pictures += find_pictures([path])
        except DataError as error:
            skipped.append(Postponed(str(Path(path)), error.reason))
    return pictures, skipped
