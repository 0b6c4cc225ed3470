"""Captions by a run, of new pictures and of the pictures of a data set.

``caption RUN photos`` encodes new pictures: open PictureCaptioner. `caption_run` captions a split,
whose features are stored.
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

from xpcap.backend import use_backend
from xpcap.backend.switch import backend_of, computing_on
from xpcap.backend.threads import cores, parallel_map
from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.distributed import SINGLE, Group
from xpcap.distributed.work import current, work
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
from xpcap.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    OptionError,
    without_subject,
)
from xpcap.models import Policy
from xpcap.options import SEED, Whole
from xpcap.progress import bar
from xpcap.runs.decoder import Decoder
from xpcap.runs.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.runs.folder import BEST
from xpcap.runs.records import Hypothesis, PictureCaption, Skipped
from xpcap.runs.run import Run, open_run

BATCH = 64  # pictures that are encoded and captioned together
SPLIT_BATCH = 500  # pictures of a split that are captioned together
THUMBNAIL = 320  # pixels of a downloaded picture's longer side: pages and PNGs show no more
Item = TypeVar("Item")


class EncodedPicture(NamedTuple):
    """A picture that waits for its caption."""

    number: int
    name: str
    feature: np.ndarray
    picture: np.ndarray | None  # pixels, if a page or PNG shows them


@dataclass(frozen=True)
class PictureCaptioner:
    """A run and its encoder, opened once, to caption pictures of any kind.

    A picture is a path, an http or https URL as text, the content of a file as bytes, a file opened
    for reading bytes, a Pillow image, or an array of uint8 in the order RGB, as in
    `xpcap.encoders.read_picture`. OpenCV's order is BGR: give ``picture[..., ::-1]``. Text is always
    a path or a URL, so pass uploads as bytes.

    Several threads may caption at a time. A caption does not depend on the thread or on other
    pictures, except for the last bits of its probabilities: pictures that are captioned together
    share matrix products. Copies and pickles open the run folder again, on the same backend.

    Parameters
    ----------
    run : Run
        From `open_run`.
    encoder : Encoder
        The encoder of the run's features.

    Raises
    ------
    DataError
        The encoder is not the run's.
    """

    run: Run
    encoder: Encoder
    # Threads encode in parallel, since encoders release Python's lock. Decoding holds it except in
    # short products, after each of which the lock would change hands: two threads would be slower
    _decoding: Any = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = self.encoder.name
        self.run.require_features(f"the encoder {name}", name, self.encoder.shape)

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
        """Caption a picture.

        Parameters
        ----------
        picture : path, URL, bytes, file, PIL.Image.Image, or array (height, width, 3), uint8, RGB
        policy, attend, explain : Policy or None, and bool
            As in `caption_run`.
        show : bool
            Fill `picture` and `area`. A notebook then shows the picture.

        Returns
        -------
        caption : PictureCaption
            Its `image` is the path, the URL or the name of an open file, otherwise empty.

        Raises
        ------
        DataError
            The picture cannot be read.
        ValueError, TypeError
            An array has another shape or dtype, `picture` is no picture, or `policy` no policy.
        """
        decoder = self.run.decoder(policy, attend, explain)
        pixels, feature = encode_picture(picture, self.encoder)
        encoded = EncodedPicture(0, _name(picture), feature, pixels if show else None)
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
        """Caption many pictures, in their order.

        Pictures are read lazily, one on each core (URLs one by one), and captioned in batches of at
        most 64; no more are in memory. If the iterable raises, the captions of its pictures so far
        come first.

        Parameters
        ----------
        pictures : iterable
            Pictures in any form that `caption` takes.
        policy, attend, explain : Policy or None, and bool
            As in `caption_run`.
        show : bool
            Fill `picture` of each caption, with a thumbnail if it is a URL, and `area`.
        numbers : iterable of int, or None
            A number for each picture, which seeds a policy that samples; an iterator may have more.
            None: 0, 1, ...

        Returns
        -------
        captions : iterator of PictureCaption, or Skipped for a picture that cannot be read

        Raises
        ------
        TypeError
            `pictures` is a single picture, or `policy` no policy.
        ValueError
            `numbers` are fewer or more than the pictures, or one is below 0.
        """
        is_single = isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike)
        if isinstance(pictures, np.ndarray):  # several pictures have four axes, or are names
            is_single = pictures.ndim != 4 and pictures.dtype.kind not in "OU"
        if is_single or hasattr(pictures, "read") or not isinstance(pictures, Iterable):
            raise InvalidTypeError(
                f"pictures is a {type(pictures).__name__}, expected several pictures; for a single"
                " picture, captions([picture]) or caption(picture)"
            )
        return self._captions(
            _numbered(pictures, numbers), self.run.decoder(policy, attend, explain), show
        )

    def _captions(
        self, numbered: Iterator[tuple[PictureSource, int]], decoder: Decoder, show: bool
    ) -> Iterator[PictureCaption | Skipped]:
        encode = functools.partial(self._encoded, show)

        def encode_block(block: list[tuple[PictureSource, int]]) -> list[EncodedPicture | Skipped]:
            # Ctrl-C has to wait for all parts of parallel work, and a download may take long
            has_url = any(is_url(source) for source, _ in block)
            return list(map(encode, block)) if has_url else parallel_map(encode, block)

        width = min(cores(), BATCH)
        encoded = map(encode_block, _batched(numbered, width))
        for blocks in _batched(encoded, BATCH // width):
            yield from self._decode(list(chain.from_iterable(blocks)), decoder)
            del blocks  # frees the pictures before the next are read

    def _encoded(self, show: bool, numbered: tuple[PictureSource, int]) -> EncodedPicture | Skipped:
        source, number = numbered
        name = _name(source)
        try:
            picture, feature = encode_picture(source, self.encoder)
        except (DataError, InvalidTypeError, InvalidValueError) as error:
            return Skipped(name, without_subject(error, name or "the picture"))
        shown = shrunk(picture) if show and is_url(name) else picture
        return EncodedPicture(number, name, feature, shown if show else None)

    def _decode(self, batch: Sequence[EncodedPicture | Skipped], decoder: Decoder) -> Iterator[Any]:
        """Replace each encoded picture by its caption."""
        encoded = [picture for picture in batch if isinstance(picture, EncodedPicture)]
        captions: Iterator[PictureCaption] = iter(())
        if encoded:
            numbers, names, rows, _ = zip(*encoded, strict=True)
            with self._decoding, computing_on(self.run.model.like):
                features = self.run.scaling(np.stack(rows))
                captions = iter(decoder(names, features, np.array(numbers)))
        for picture in batch:
            if isinstance(picture, EncodedPicture):
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
        A run folder, or an open run.
    backend : str or None
        Backend of decoding, in any thread: "numpy", "cupy", "cupy:1". None: the current one.

    Returns
    -------
    captioner : PictureCaptioner

    Raises
    ------
    DataError
        As in `open_run`; or the encoder of the run's features is unknown, or needs a package that
        is missing.
    BackendError, OptionError
        As in `use_backend`; or `backend` is given with an open run.
    """
    if isinstance(run, Run):
        if backend is not None:
            raise OptionError(
                "`backend` is given with an open run, which has a backend, expected the run's path"
            )
        return PictureCaptioner(run, run.encoder())
    with contextlib.nullcontext() if backend is None else use_backend(backend):
        opened = open_run(Path(run))
    return PictureCaptioner(opened, opened.encoder())


@functools.lru_cache(maxsize=1)  # a process pool unpickles the captioner again and again
def _reopened(backend: str, changed: tuple[int, ...], path: Path) -> PictureCaptioner:
    """The captioner of a copy or pickle, cached until the folder's times in `changed` differ."""
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
    """Caption picture files, pictures in folders (recursively), and URLs.

    Notices name files that are no pictures, and unreadable subfolders.

    Parameters
    ----------
    run : Run
    paths : str or Path, or iterable of them
        Files, folders and URLs. Text that begins with ``http://`` or ``https://`` is a URL.
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
        Unreadable pictures and URLs, and folders without a picture. `read_url` has the limits of
        URLs.

    Raises
    ------
    DataError
        The encoder of the run's features is unknown.
    """
    captioner = PictureCaptioner(run, run.encoder())
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


def encode_picture(source: PictureSource, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """The pixels (h, w, 3) of a picture that PictureCaptioner accepts, and its feature.

    DataError : it cannot be read, or its feature is not finite.
    """
    picture = read_url(str(source)) if is_url(source) else read_picture(source)
    feature = encoder.encode([picture])[0]
    if not np.isfinite(feature).all():
        raise DataError(
            f"{_name(source) or 'the picture'} has a feature from the encoder {encoder.name} that"
            " is not finite"
        )
    return picture, feature


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last, at the end or before an exception, may be shorter."""
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
    """Pictures with their numbers. OptionError : `numbers` do not fit, or one is below 0."""
    expected = "one for each picture"
    remaining = iter(count() if numbers is None else numbers)
    for picture in pictures:
        number = next(remaining, None)
        if number is None:
            raise OptionError(f"`numbers` are fewer than the pictures, expected {expected}")
        yield picture, SEED.check("`numbers`", number)
    if isinstance(numbers, Sized) and next(remaining, None) is not None:
        raise OptionError(f"`numbers` are more than the pictures, expected {expected}")


def with_picture(run: Run, caption: PictureCaption, picture: np.ndarray | None) -> PictureCaption:
    """A caption with its picture, if it was found, and the area that its attention covers."""
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
    """The path, URL or name of an open file, otherwise empty; the beginning of a data URL."""
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", None) or "")
    name = os.fsdecode(source)
    return name if scheme_of(name) != "data" else name.partition(",")[0]


def find_sources(
    paths: str | Path | Iterable[str | Path],
) -> tuple[list[str | Path], list[Skipped]]:
    """URLs as text and picture files as paths, in order; and the paths without a picture."""
    pictures: list[str | Path] = []
    skipped: list[Skipped] = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        try:
            if scheme_of(path):  # reading reports a scheme that is not supported
                pictures.append(str(path))
            else:
                pictures += find_pictures([path])
        except DataError as error:
            skipped.append(Skipped(str(Path(path)), without_subject(error, path)))
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
    """Caption pictures spread evenly over a split; captions come with their references.

    data : an open data set, or its path. None: the data set that the run was trained on
    count : number of pictures
    policy : chooses the words, within the run's limits. None: a beam that the run's reranker
        reranks, or greedy decoding without a reranker. `Policy()` is greedy
    attend : fill `attention` of each caption, if the model attends
    explain : fill `explanation` of each reranked caption
    DataError : the data set or the split is missing, or does not fit the run
    OptionError : the policy forbids every word, or the count is below 0
    """
    count = Whole(0).check("`count`", count)
    dataset = run.data(data)
    pictures = captioned(dataset, split)
    chosen = pictures[evenly_spaced(len(pictures), count)]
    with work(group=SINGLE):
        return caption_chosen(run.decoder(policy, attend, explain), dataset, split, chosen)


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Sorted numbers of the pictures of a split that have captions. DataError : there are none."""
    pictures = np.unique(data.split(split).image_idxs)
    if not pictures.size:
        raise DataError(f"split {split!r} has no caption, expected at least one")
    return pictures


def caption_chosen(
    decoder: Decoder, data: CaptionData, split: str, pictures: np.ndarray
) -> list[PictureCaption]:
    """Caption the pictures numbered `pictures` of a split of `Run.data`, with references.

    The ranks of the current work share the pictures; each returns all captions.
    """
    images = data.split(split).images
    group = current().group
    shard = pictures[group.shard(len(pictures))]
    captions: list[PictureCaption] = []
    for start in bar(range(0, len(shard), SPLIT_BATCH), f"captioning {split}"):
        numbers = shard[start : start + SPLIT_BATCH]
        names = [images[i] for i in numbers.tolist()]
        captions += decoder(names, data.features(split, numbers), numbers)
    references = data.references(split)
    numbered = zip(pictures.tolist(), _gather(group, captions), strict=True)
    return [replace(caption, references=references[i]) for i, caption in numbered]


def _gather(group: Group, captions: list[PictureCaption]) -> list[PictureCaption]:
    """The captions of all ranks; they are sent as JSON."""
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
    """An explanation from its JSON."""
    return Explanation(
        [Neighbour(**fields) for fields in neighbours],
        [CandidateCaption(**fields) for fields in candidates],
    )
