"""Captions by a run: of new pictures in any form, through its encoder, and of a data set's own.

The first are ``caption RUN photos``: open PictureCaptioner. The others are `caption_run`.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xpcap.backend import backend_of, computing_on, use_backend
from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.distributed import SINGLE, Group
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
from xpcap.options import SEED, Whole
from xpcap.progress import bar
from xpcap.runs.decoder import Decoder
from xpcap.runs.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.runs.folder import BEST
from xpcap.runs.records import Hypothesis, PictureCaption, Skipped
from xpcap.runs.run import Run, open_run
from xpcap.threads import cores, parallel_map
from xpcap.work import current, work

BATCH = 64  # pictures captioned at once
AT_ONCE = 500  # of a data set's, whose features are at hand
THUMBNAIL = 320  # pixels of a downloaded picture's longer side, as many as a page or PNG shows
Item = TypeVar("Item")


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
        Encoder of the run's features.

    Raises
    ------
    DataError
        The encoder is another than the run's.
    """

    run: Run
    encoder: Encoder
    # Threads encode side by side, outside Python's lock. Decoding holds that, but for short products
    # between which it would change hands: two threads that decode are slower than one
    _decoding: Any = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name, shape = self.encoder.name, self.encoder.shape
        self.run.require_features("PictureCaptioner", f"the encoder {name}", name, shape)

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
        show: bool = False,
    ) -> PictureCaption:
        """The caption of a picture.

        Parameters
        ----------
        picture : path, URL, bytes, file, PIL.Image.Image, or array (height, width, 3), uint8, RGB
        policy, attend, explain : Policy or None, and bool
            As in `caption_run`.
        show : bool
            Fill `picture`, and `area` of the attention. A notebook then shows the picture.

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
        pixels, feature = encode_picture("caption", picture, self.encoder)
        encoded = Encoded(0, _name(picture), feature, pixels if show else None)
        (caption,) = self._decode([encoded], decoder)
        return caption

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

        Pictures are read as the results are asked for, one on each core, those of URLs one by one,
        and decoded at most 64 at a time; no more are in memory. An exception of the iterable comes
        after the captions of what it gave.

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
        is_single = isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike)
        if isinstance(pictures, np.ndarray):  # several, if of four axes, or of names
            is_single = pictures.ndim != 4 and pictures.dtype.kind not in "OU"
        if is_single or hasattr(pictures, "read") or not isinstance(pictures, Iterable):
            got = f"is a {type(pictures).__name__}"
            cause = "for one, captions([picture]) or caption(picture)"
            raise InvalidTypeError("captions", "pictures", got, "several pictures", cause)
        return self._captions(
            _numbered(pictures, numbers), self.run.decoder(policy, attend, explain), show
        )

    def _captions(
        self, numbered: Iterator[tuple[PictureSource, int]], decoder: Decoder, show: bool
    ) -> Iterator[PictureCaption | Skipped]:
        encode = functools.partial(self._encoded, show)

        def encode_block(block: list[tuple[PictureSource, int]]) -> list[Encoded | Skipped]:
            # Parallel work waits for all parts, also at Ctrl-C, and a download may take long
            downloads = any(is_url(source) for source, _ in block)
            return list(map(encode, block)) if downloads else parallel_map(encode, block)

        width = min(cores(), BATCH)
        encoded = map(encode_block, _batched(numbered, width))
        for blocks in _batched(encoded, BATCH // width):
            yield from self._decode(list(chain.from_iterable(blocks)), decoder)
            del blocks  # before the next are read

    def _encoded(self, show: bool, numbered: tuple[PictureSource, int]) -> Encoded | Skipped:
        source, number = numbered
        name = _name(source)
        try:
            picture, feature = encode_picture("caption_files", source, self.encoder)
        except (DataError, InvalidTypeError, InvalidValueError) as error:
            return Skipped(name, error.reason)
        shown = shrunk(picture) if show and is_url(name) else picture
        return Encoded(number, name, feature, shown if show else None)

    def _decode(self, batch: Sequence[Encoded | Skipped], decoder: Decoder) -> Iterator[Any]:
        """Each encoded picture as a caption; those that were skipped as they are."""
        encoded = [picture for picture in batch if isinstance(picture, Encoded)]
        captions: Iterator[PictureCaption] = iter(())
        if encoded:
            numbers, names, rows, _ = zip(*encoded, strict=True)
            with self._decoding, computing_on(self.run.model.like):
                features = self.run.scaling(np.stack(rows))
                captions = iter(decoder(names, features, np.array(numbers)))
        for picture in batch:
            if isinstance(picture, Encoded):
                yield with_picture(self.run, next(captions), picture.picture)
            else:
                yield picture


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

    They go through the encoder that computed the run's features. Notices name each folder's other
    files, and unreadable subfolders.

    Parameters
    ----------
    run : Run
    paths : str or Path, or iterable of them
        Files, folders and URLs, or one of them; text that begins with ``http://`` or ``https://``
        is a URL.
    progress : bool or None
        Show a progress bar on a terminal. None: as the current work does, by default not.
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
        for result in captioner.captions(
            shown, policy=policy, attend=attend, explain=explain, show=show
        ):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                captions.append(result)
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


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, and what is left at the end or where the iterable fails."""
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        yield batch
        raise
    yield batch


def _numbered(
    pictures: Iterable[PictureSource], numbers: Iterable[int] | None
) -> Iterator[tuple[PictureSource, int]]:
    """Pictures with their numbers. OptionError : too few, or too many of a list; one below 0."""
    expected = "as many as there are pictures"
    remaining = iter(count() if numbers is None else numbers)
    for picture in pictures:
        number = next(remaining, None)
        if number is None:
            raise OptionError("captions", "`numbers`", "are fewer than the pictures", expected)
        yield picture, SEED.check("captions", "`numbers`", number)
    if isinstance(numbers, Sized) and next(remaining, None) is not None:
        raise OptionError("captions", "`numbers`", "are more than the pictures", expected)


def with_picture(run: Run, caption: PictureCaption, picture: np.ndarray | None) -> PictureCaption:
    """A caption with its picture, if that is at hand, and the area that its attention covers."""
    if picture is None:
        return caption
    area = grid_area(run.source.encoder, picture) if caption.attention else None
    return replace(caption, picture=picture, area=area)


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


# The pictures of a data set


def caption_run(
    run: Run,
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    count: int = 10,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> list[PictureCaption]:
    """Captions of pictures spread evenly over a split, each with its references.

    data : an open data set, or the path of one. None: the one that the run was trained on
    count : number of pictures
    policy : chooses the words; captions keep to the run's limits as well. None: a beam, reranked by
        the run's reranker; greedy if the run has none. `Policy()` is greedy
    attend : fill `attention` of each caption, for a model that attends
    explain : fill `explanation` of each caption that is reranked
    DataError : the data set or the split is missing, or does not fit the run
    OptionError : the policy's captions are longer than the run's, or it forbids every word; a count
        below 0
    """
    count = Whole(0).check("caption_run", "`count`", count)
    dataset = run.data(data)
    pictures = captioned(dataset, split)
    chosen = pictures[evenly_spaced(len(pictures), count)]
    with work(group=SINGLE):
        return caption_chosen(run.decoder(policy, attend, explain), dataset, split, chosen)


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Numbers of the pictures of a split that have captions, in rising order. DataError : none."""
    pictures = np.unique(data.split(split).image_idxs)
    if not pictures.size:
        raise DataError("this data set", f"split {split!r}", "has no caption", expected="some")
    return pictures


def caption_chosen(
    decoder: Decoder, data: CaptionData, split: str, pictures: np.ndarray
) -> list[PictureCaption]:
    """Captions of the pictures numbered `pictures` of a split of `Run.data`, with references.

    The ranks in the current work share it; each returns all captions.
    """
    images, group = data.split(split).images, current().group
    shard = pictures[group.shard(len(pictures))]
    captions: list[PictureCaption] = []
    for start in bar(range(0, len(shard), AT_ONCE), f"captioning {split}"):
        numbers = shard[start : start + AT_ONCE]
        names = [images[i] for i in numbers.tolist()]
        captions += decoder(names, data.features(split, numbers), numbers)
    references = data.references(split)
    numbered = zip(pictures.tolist(), _gather(group, captions), strict=True)
    return [replace(caption, references=references[i]) for i, caption in numbered]


def _gather(group: Group, captions: list[PictureCaption]) -> list[PictureCaption]:
    """The captions of all ranks, which come as JSON."""
    if group.size == 1:
        return captions
    return [
        PictureCaption(
            **{
                **fields,
                "n_best": [Hypothesis(**best) for best in fields["n_best"]],
                "explanation": fields["explanation"] and _explanation(**fields["explanation"]),
            }
        )
        for fields in chain.from_iterable(group.gather([*map(asdict, captions)]))
    ]


def _explanation(neighbours: Sequence[Any], candidates: Sequence[Any]) -> Explanation:
    """An explanation that was JSON."""
    return Explanation(
        [Neighbour(**fields) for fields in neighbours],
        [CandidateCaption(**fields) for fields in candidates],
    )
