"""Captions of new pictures by a run and its encoder: of files, folders, URLs, bytes and arrays.

This is ``caption RUN photos``; of a data set's own pictures: captions.py.
"""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import backend_of, computing_on, use_backend
from xpcap.encoders import (
    Encoder,
    PictureSource,
    find_pictures,
    grid_area,
    is_url,
    read_picture,
    read_url,
    scheme_of,
)
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, OptionError
from xpcap.models import Policy
from xpcap.options import SEED
from xpcap.progress import bar
from xpcap.runs.decoder import Decoder
from xpcap.runs.folder import BEST
from xpcap.runs.records import PictureCaption, Skipped
from xpcap.runs.run import Inputs, Run, open_run
from xpcap.threads import Lock, blas
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
    opened for reading bytes; Pillow images; and arrays of uint8 in the order RGB, as
    `xpcap.encoders.read_picture` takes them: OpenCV's order is BGR, give ``picture[..., ::-1]``.
    Text is a path or a URL: what a stranger sends is given as bytes.

    Several threads may caption at a time. A caption does not depend on the thread, nor on other
    pictures, but for the last bits of its probabilities, since pictures that are captioned together
    share matrix products. Copies and pickles open the run's folder again, with its encoder, on the
    same backend.

    Parameters
    ----------
    run : Run
        Of `open_run`.
    encoder : Encoder
        Of the run's features.

    Raises
    ------
    DataError
        The encoder is another than the run's.
    """

    run: Run
    encoder: Encoder
    # Threads encode side by side, outside Python's lock. Decoding holds that, but for short products
    # between which it would change hands: two threads that decode are slower than one
    _decoding: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inputs, name = self.run.inputs, self.encoder.name
        # features that were given to the run may be of any encoder
        theirs = Inputs(inputs.encoder and name, self.encoder.shape)
        if different := inputs.misfit(theirs):
            thing, expected = f"the encoder {name}", f"the features of {self.run.path}"
            raise DataError("PictureCaptioner", thing, f"makes {different}", expected)

    def __repr__(self) -> str:
        return f"PictureCaptioner({self.run}, {self.encoder.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        path = self.run.path.absolute()
        changed = tuple(file.stat().st_mtime_ns for file in (path, path / BEST) if file.exists())
        return _reopened, (backend_of(self.run.model.like), changed, path)

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
        picture : path, URL, bytes, file, PIL.Image.Image, or array (height, width, 3), uint8, RGB
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
            An array of another shape or dtype, no picture at all, or no policy.
        """
        decoder = self.run.decoder(policy, attend, explain)
        _, feature = encode_picture("caption", picture, self.encoder)
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
    ) -> Iterator[PictureCaption | Skipped]:
        """Captions of many pictures, in their order.

        Pictures are read as the results are asked for, and decoded 64 at a time; no more are in
        memory. One that cannot be read is told at once, or after those that were read before it.
        An exception of the iterable comes after the captions of what it gave.

        Parameters
        ----------
        pictures : iterable
            Pictures in any form that `caption` takes.
        policy, attend, explain : Policy or None, and bool
            As in `caption_run`.
        show : bool
            Fill `picture` of each caption, of a URL with a thumbnail, and `area` of its attention.
        numbers : iterable of int, or None
            Numbers of the pictures, which seed a policy that samples: one of each; an iterator may
            have more. None: 0, 1, ...

        Returns
        -------
        captions : iterator of PictureCaption, or Skipped for a picture that cannot be read

        Raises
        ------
        TypeError
            One picture, not several; or no policy.
        ValueError
            `numbers` are not as many as the pictures, or one is below 0.
        """
        one = isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike)
        if isinstance(pictures, np.ndarray):  # several, if of four axes, or of names
            one = pictures.ndim != 4 and pictures.dtype.kind not in "OU"
        if one or hasattr(pictures, "read") or not isinstance(pictures, Iterable):
            got = f"is a {type(pictures).__name__}"
            cause = "for one, captions([picture]) or caption(picture)"
            raise InvalidTypeError("captions", "pictures", got, "several pictures", cause)
        return self._captions(
            _numbered(pictures, numbers), self.run.decoder(policy, attend, explain), show
        )

    def _captions(
        self, numbered: Iterator[tuple[PictureSource, int]], decoder: Decoder, show: bool
    ) -> Iterator[PictureCaption | Skipped]:
        waiting: list[Encoded | Skipped] = []
        encoded = 0  # of those
        ended: Exception | None = None
        while ended is None:
            try:
                waiting.append(self._encoded(*next(numbered), show))
                encoded += isinstance(waiting[-1], Encoded)
            except Exception as error:  # StopIteration, or one that comes after what is finished
                ended = error
            if ended is not None or not encoded or BATCH in (encoded, len(waiting) - encoded):
                yield from self._decode(waiting, decoder)
                waiting, encoded = [], 0
        if not isinstance(ended, StopIteration):
            raise ended

    def _encoded(self, source: PictureSource, number: int, show: bool) -> Encoded | Skipped:
        name = _name(source)
        try:
            picture, feature = encode_picture("caption_files", source, self.encoder)
        except (DataError, InvalidTypeError, InvalidValueError) as error:
            return Skipped(name, error.reason)
        shown = shrunk(picture) if show and is_url(name) else picture
        return Encoded(number, name, feature, shown if show else None)

    def _decode(self, waiting: Sequence[Encoded | Skipped], decoder: Decoder) -> Iterator[Any]:
        """Each encoded picture as a caption; those that were skipped as they are."""
        encoded = [one for one in waiting if isinstance(one, Encoded)]
        found: Iterator[PictureCaption] = iter(())
        if encoded:
            numbers, names, rows, _ = zip(*encoded, strict=True)
            # in this order, so that none waits for the other
            with blas().lock(), self._decoding, computing_on(self.run.model.like):
                features = self.run.preprocessing(np.stack(rows))
                found = iter(decoder(names, features, np.array(numbers)))
        for one in waiting:
            if isinstance(one, Encoded):
                yield with_picture(self.run, next(found), one.picture)
            else:
                yield one


def open_captioner(
    run: Run | str | os.PathLike[str], *, backend: str | None = None
) -> PictureCaptioner:
    """Open a run folder with its encoder, to caption pictures in a program.

    Parameters
    ----------
    run : str, Path or Run
        A run folder, or a run that is open.
    backend : str or None
        Where captions are decoded, in any thread, as of `use_backend`: "numpy", "cupy", "cupy:1".
        None: the backend in force.

    Returns
    -------
    captioner : PictureCaptioner

    Raises
    ------
    DataError
        As in `open_run`; or the run's features come from no encoder of this package, or from one
        whose package is missing.
    BackendError, OptionError
        As of `use_backend`; or a run that is open is given with a backend.
    """
    if isinstance(run, Run):
        if backend is not None:
            got = "is given with a run that is open, which has its backend"
            raise OptionError("open_captioner", "`backend`", got, "the run's path")
        return PictureCaptioner(run, run.encoder("open_captioner"))
    with contextlib.nullcontext() if backend is None else use_backend(backend):
        opened = open_run(Path(run))
    return PictureCaptioner(opened, opened.encoder("open_captioner"))


@functools.lru_cache(maxsize=1)  # pools of processes send a captioner with every few pictures
def _reopened(backend: str, changed: tuple[int, ...], path: Path) -> PictureCaptioner:
    """The captioner of a copy or pickle; `changed`, when its folder did last, is of the key."""
    return open_captioner(path, backend=backend)


def caption_files(
    run: Run,
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
    caller: str, source: PictureSource, encoder: Encoder
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (h, w, 3), of a kind that PictureCaptioner takes, and its feature.

    DataError : it cannot be read, or its feature is not finite, which `caller` begins.
    """
    picture = read_url(str(source)) if is_url(source) else read_picture(source)
    feature = encoder.encode([picture])[0]
    if not np.isfinite(feature).all():
        got = f"has a feature by the encoder {encoder.name} that is not finite"
        raise DataError(caller, _name(source) or "the picture", got)
    return picture, feature


def _numbered(
    pictures: Iterable[PictureSource], numbers: Iterable[int] | None
) -> Iterator[tuple[PictureSource, int]]:
    """Pictures with their numbers. OptionError : too few, or too many of a list; one below 0."""
    if numbers is None:
        yield from zip(pictures, count(), strict=False)
        return
    expected, left = "as many as there are pictures", iter(numbers)
    for picture in pictures:
        number = next(left, None)
        if number is None:
            raise OptionError("captions", "`numbers`", "are fewer than the pictures", expected)
        yield picture, SEED.check("captions", "`numbers`", number)
    if isinstance(numbers, Sized) and next(left, None) is not None:
        raise OptionError("captions", "`numbers`", "are more than the pictures", expected)


def with_picture(run: Run, caption: PictureCaption, picture: np.ndarray | None) -> PictureCaption:
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
    """A path, URL or the name of an open file; else empty. Of a data URL how it begins."""
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", None) or "")
    name = os.fsdecode(source)
    return name if scheme_of(name) != "data" else name.partition(",")[0]


def find_sources(
    paths: str | Path | Iterable[str | Path],
) -> tuple[list[str | Path], list[Skipped]]:
    """URLs as text and picture files as paths, in order; and the paths that hold none."""
    pictures: list[str | Path] = []
    skipped: list[Skipped] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        try:
            if scheme_of(path):  # of one that cannot be read, reading says why
                pictures.append(str(path))
            else:
                pictures += find_pictures([path])
        except DataError as error:
            skipped.append(Skipped(str(Path(path)), error.reason))
    return pictures, skipped
