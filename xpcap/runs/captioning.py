"""Captions by a run, or by several as one: of a data set's pictures, and of new pictures."""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend import Array
from xpcap.data import CaptionData, open_data
from xpcap.data.dataset import Source, evenly_spaced, size
from xpcap.data.vocabulary import Vocabulary, detokenize
from xpcap.distributed import SINGLE, Group
from xpcap.encoders import (
    Encoder,
    PictureSource,
    find_encoder,
    find_pictures,
    is_url,
    read_picture,
    read_url,
)
from xpcap.errors import DataError, InvalidValueError
from xpcap.models import Captioner, CaptioningRNN, Ensemble, Policy
from xpcap.progress import bar
from xpcap.ranking import Ranker, Ranking
from xpcap.report.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.report.records import PictureCaption, Ranked, Skipped
from xpcap.runs.folder import CONFIG, VOCAB, Run, digest, open_run, opened_folder
from xpcap.runs.ranking import RankedBeam, default_policy, limited, rank, word_log_probabilities
from xpcap.threads import blas


def data_of(run: Run, data: CaptionData | str | Path | None = None) -> CaptionData:
    """A data set checked to fit the run, with the run's scaling, and its projection if it has none.

    Parameters
    ----------
    data : an open data set, or the path of one; None: the one that the run was trained on

    Raises
    ------
    DataError : it is missing, does not fit the run, or is the run's own and has changed since.
    """
    where = "the data set"
    if not isinstance(data, CaptionData):
        where = str(_own(run) if data is None else data)
        opened = open_data(where)
        if data is None and run.config["data_stamp"] not in ("", opened.fingerprint):
            raise DataError(
                "data_of",
                f"{where}, the data of {run.path},",
                "has changed since training",
                expected="it unchanged",
                cause="give it as `data` to use it anyway",
            )
        data = opened
    if data.projection is not None and not data.projection.is_like(run.projection):
        raise DataError(
            "data_of",
            where,
            f"was prepared with another PCA than the data of {run.path}",
            expected="the same, or none",
            cause="prepare it without",
        )
    expected = run.raw_shape if data.projection is None else run.model.config.feature_shape
    if data.feature_shape != expected:
        raise DataError(
            "data_of",
            where,
            f"has features of size {size(data.feature_shape)}",
            expected=f"the run's {size(expected)}",
            cause="made by another encoder?",
        )
    return replace(data, scaling=run.preprocessing if data.projection is None else run.scaling)


def _own(run: Run) -> Path:
    path = run.path / run.config["data"]  # an absolute path stays what it is
    if not path.exists():
        raise DataError(
            "data_of",
            f"{path}, the data of {run.path},",
            "is gone",
            expected="the file it was trained on",
            cause="if it was moved, give its new path as `data`",
        )
    return path


def source_of(run: Run) -> Source:
    """The record of how the run's training data was prepared."""
    return Source.from_json(f"open_run: {run.path}", run.config.get("source", {}))


def caption_run(
    run: Run[Captioner],
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    count: int = 10,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> list[PictureCaption]:
    """Captions of pictures spread evenly over a split, each with its references.

    Parameters
    ----------
    run : Run
    data : CaptionData, str, Path or None
        An open data set, or the path of one. None: the one that the run was trained on.
    split : str
    count : int
        Number of pictures.
    policy : Policy or None
        Chooses the words; captions keep to the run's limits as well. None: a beam, ranked by the
        run's ranker; greedy if the run has none. `Policy()` is greedy.
    attend : bool
        Fill `attention` of each caption, for a model that attends.
    explain : bool
        Fill `explanation` of each caption that is ranked.

    Returns
    -------
    captions : list of PictureCaption

    Raises
    ------
    DataError
        The data set or the split is missing, or does not fit the run.
    OptionError
        The policy's captions are longer than the run's, or it forbids every word.
    """
    seen = data_of(run, data)
    pictures = captioned(seen, split)
    chosen = pictures[evenly_spaced(len(pictures), count)]
    return caption_chosen(run, seen, split, chosen, policy=policy, attend=attend, explain=explain)


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Numbers of the pictures of a split that have captions, in rising order."""
    return np.unique(data.split(split).image_idxs)


def caption_chosen(
    run: Run[Captioner],
    data: CaptionData,
    split: str,
    pictures: np.ndarray,
    *,
    batch_size: int = 500,
    progress: bool = False,
    policy: Policy | None = None,
    group: Group = SINGLE,
    attend: bool = False,
    explain: bool = False,
) -> list[PictureCaption]:
    """Captions of the pictures numbered `pictures` of a split of `data_of`, with references.

    `policy`, `attend` and `explain` are as in `caption_run`. The ranks of `group` share the work; each returns
    all captions.
    """
    images = data.split(split).images
    shard = pictures[group.shard(len(pictures))]
    captions: list[PictureCaption] = []
    for start in bar(range(0, len(shard), batch_size), progress, f"captioning {split}"):
        numbers = shard[start : start + batch_size]
        names = [images[i] for i in numbers.tolist()]
        features = data.features(split, numbers)
        captions += caption_features(run, names, features, numbers, policy, attend, explain)
    references = data.references(split)
    everything = zip(pictures.tolist(), _gather(group, captions), strict=True)
    return [caption._replace(references=references[i]) for i, caption in everything]


def caption_features(
    run: Run[Captioner],
    names: Sequence[str],
    features: np.ndarray,
    numbers: np.ndarray,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> Iterator[PictureCaption]:
    """Captions of pictures from their features (n, *shape), preprocessed for the model.

    They end at END or after the run's `max_words`, and never hold NULL, START or UNK. `numbers`
    (n,) seed a policy that samples; `policy`, `attend` and `explain` are as in `caption_run`.
    """
    vocabulary, max_words = run.vocabulary, run.config["max_words"]
    within = limited(policy or default_policy(run), vocabulary, max_words)
    if isinstance(within, RankedBeam) and run.ranker is not None:
        found = _ranked(run, features, within, explain)
    else:
        found = _decoded(run, features, numbers, within)
    captions = [one.words for one in found]
    maps = attention_maps(run, features, captions) if attend else [None] * len(captions)
    for name, one, attention in zip(names, found, maps, strict=True):
        yield one._replace(image=name, attention=attention)


def _decoded(
    run: Run[Captioner], features: np.ndarray, numbers: np.ndarray, policy: Policy
) -> list[PictureCaption]:
    """Captions by the run's model, without names."""
    decoded, vocabulary = run.model.decode(features, policy, numbers=numbers), run.vocabulary
    captions = []
    for ids, probabilities, totals in zip(*decoded, strict=True):
        words = vocabulary.words(ids[0])
        best = zip(ids, totals.tolist(), strict=True) if policy.n_best else ()
        n_best = [
            Ranked(detokenize(vocabulary.words(one)), total)
            for one, total in best
            if total > -np.inf
        ]
        likely = [float(p) for p in probabilities[0][: len(words)]]
        captions.append(PictureCaption("", detokenize(words), likely, [], n_best, words=words))
    return captions


def _ranked(
    run: Run[Captioner], features: np.ndarray, policy: RankedBeam, explain: bool
) -> list[PictureCaption]:
    """Captions by the run's ranker, without names; a photo without candidates has an empty one."""
    vocabulary, rankings = run.vocabulary, rank(run, features, policy)
    texts = [[vocabulary.idx_to_word[i] for i in one.best] for one in rankings]
    probabilities = np.exp(word_log_probabilities(run, features, [one.best for one in rankings]))
    captions = []
    for words, ranking, likely in zip(texts, rankings, probabilities.tolist(), strict=True):
        n_best = [
            Ranked(_text(vocabulary, one.candidate.words), one.candidate.log_probability)
            for one in ranking.candidates[: policy.n_best]
        ]
        reasons = _explained(run.ranker, ranking) if explain and run.ranker else None
        captions.append(
            PictureCaption(
                "",
                detokenize(words),
                likely[: len(words)],
                [],
                n_best,
                words=words,
                explanation=reasons,
            )
        )
    return captions


def _explained(ranker: Ranker, ranking: Ranking) -> Explanation:
    index, vocabulary = ranker.index, ranker.vocabulary
    neighbours = [
        Neighbour(index.images[row], cosine, [_text(vocabulary, c) for c in index.captions(row)])
        for row, cosine in ranking.neighbours
    ]
    candidates = [
        CandidateCaption(
            _text(vocabulary, one.candidate.words),
            one.candidate.log_probability / (len(one.candidate.words) + 1),
            one.score,
            one.parts,
            index.images[one.candidate.photo] if one.candidate.photo >= 0 else "",
        )
        for one in ranking.candidates
    ]
    return Explanation(neighbours, candidates)


def _text(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return detokenize([vocabulary.idx_to_word[i] for i in ids])


def attention_maps(
    run: Run[Captioner], features: np.ndarray, captions: Sequence[Sequence[str]]
) -> Sequence[Sequence[Sequence[float]] | None]:
    """Attention over regions (T, P) of each caption, given as words; rows sum to 1.

    None for each if the model does not attend.
    """
    if not run.model.config.attends:
        return [None] * len(captions)
    encoded = run.vocabulary.encode_words(captions, max(1, *map(len, captions)))
    weights = run.model.attention(features, encoded)
    return [of_one[: len(words)].tolist() for of_one, words in zip(weights, captions, strict=True)]


def _gather(group: Group, captions: list[PictureCaption]) -> list[PictureCaption]:
    if group.size == 1:
        return captions
    everything = [PictureCaption(*one) for one in chain.from_iterable(group.gather(captions))]
    return [
        one._replace(
            n_best=[Ranked(*best) for best in one.n_best],
            explanation=one.explanation and _explanation(*one.explanation),
        )
        for one in everything
    ]


def _explanation(neighbours: Sequence[Any], candidates: Sequence[Any]) -> Explanation:
    """An explanation that was JSON."""
    return Explanation(
        [Neighbour(*one) for one in neighbours], [CandidateCaption(*one) for one in candidates]
    )


# New pictures


BATCH = 64  # pictures captioned at once
Keep = Callable[[str, np.ndarray], object]


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
        policy : Policy or None
            As in `caption_run`.
        attend : bool
            As in `caption_run`.
        explain : bool
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
        (one,) = self._decode([(0, _name(picture), feature)], policy, attend, explain)
        return one

    def captions(
        self,
        pictures: Iterable[PictureSource],
        *,
        policy: Policy | None = None,
        attend: bool = False,
        explain: bool = False,
        numbers: Iterable[int] | None = None,
        keep: Keep | None = None,
    ) -> "Iterator[PictureCaption | Skipped]":
        """Captions of many pictures, in their order.

        Pictures are read as the results are asked for, and decoded 64 at a time; no more are in
        memory.

        Parameters
        ----------
        pictures : iterable
            Pictures in any form that `caption` takes.
        policy : Policy or None
            As in `caption_run`.
        attend : bool
            As in `caption_run`.
        explain : bool
            As in `caption_run`.
        numbers : iterable of int, or None
            Numbers of the pictures, which seed a policy that samples. None: 0, 1, ...
        keep : callable or None
            Called with each URL and its picture, to show it without another download.

        Yields
        ------
        caption : PictureCaption, or Skipped for a picture that cannot be read
        """
        waiting: list[tuple[int, str, np.ndarray] | Skipped] = []
        encoded = 0
        for source, number in zip(pictures, count() if numbers is None else numbers, strict=False):
            try:
                picture, feature = encode_picture("caption_files", source, self.encoder)
            except DataError as error:
                waiting.append(_skipped(source, error))
                continue
            if keep and isinstance(source, str) and is_url(source):
                keep(source, picture)
            waiting.append((number, _name(source), feature))
            encoded += 1
            if encoded % BATCH == 0:
                yield from self._decode(waiting, policy, attend, explain)
                waiting = []
        yield from self._decode(waiting, policy, attend, explain)

    def _decode(
        self,
        waiting: Sequence[tuple[int, str, np.ndarray] | Skipped],
        policy: Policy | None,
        attend: bool,
        explain: bool,
    ) -> Iterator[Any]:
        """Each encoded picture as a caption; those that were skipped as they are."""
        encoded = [one for one in waiting if not isinstance(one, Skipped)]
        captions: list[PictureCaption] = []
        if encoded:
            numbers, names, rows = zip(*encoded, strict=True)
            with blas().turn(), self._decoding:  # in this order, so that none waits for the other
                features = self.run.preprocessing(np.stack(rows))
                captions += caption_features(
                    self.run, names, features, np.array(numbers), policy, attend, explain
                )
        following = iter(captions)
        for one in waiting:
            yield one if isinstance(one, Skipped) else next(following)


def open_captioner(
    run: "Run[Captioner] | str | Path | Sequence[str | Path]",
    *,
    on_remark: Callable[[str], object] = warnings.warn,
) -> PictureCaptioner:
    """Open a run folder, or several as one, with its encoder, to caption pictures in a program.

    Parameters
    ----------
    run : str, Path or Run, or sequence of str or Path
        A run folder, several, or a run that is open.
    on_remark : callable
        As in `open_run`.

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
        opened = open_runs([run] if isinstance(run, str | Path) else run, on_remark=on_remark)
    return PictureCaptioner(opened, encoder_of(opened, "open_captioner"))


def caption_files(
    run: Run[Captioner],
    paths: str | Path | Iterable[str | Path],
    *,
    progress: bool = False,
    keep: Keep | None = None,
    policy: Policy | None = None,
    group: Group = SINGLE,
    attend: bool = False,
    explain: bool = False,
    on_remark: Callable[[str], object] | None = None,
) -> tuple[list[PictureCaption], list[Skipped]]:
    """Captions of picture files, of pictures in folders (recursively), and of URLs.

    They go through the encoder that computed the run's features.

    Parameters
    ----------
    run : Run
    paths : str or Path, or iterable of them
        Files, folders and URLs, or one of them; text that begins with ``http://`` or ``https://``
        is a URL.
    progress : bool
        Show a progress bar on a terminal.
    keep : callable or None
        Called with each URL and its picture, to show it without another download.
    policy : Policy or None
        As in `caption_run`.
    group : Group
        Ranks that share the work; each returns all captions. Rank 0 does all if there are URLs.
    attend : bool
        As in `caption_run`.
    explain : bool
        As in `caption_run`.
    on_remark : callable or None
        Called with a sentence on each folder's other files, and on unreadable subfolders.

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
    captioner = PictureCaptioner(run, encoder_of(run, "caption_files"))
    captions: list[PictureCaption] = []
    unreadable: list[Skipped] = []
    pictures, skipped = find_sources(paths, on_remark)
    share = group.shard(len(pictures))
    if any(isinstance(picture, str) for picture in pictures):  # rank 0 shows downloads later
        share = slice(0, len(pictures) if group.rank == 0 else 0)
    shown = bar(pictures[share], progress and group.rank == 0, "captioning pictures", lines=True)
    for one in captioner.captions(
        shown,
        policy=policy,
        attend=attend,
        explain=explain,
        numbers=range(len(pictures))[share],
        keep=keep,
    ):
        if isinstance(one, Skipped):
            unreadable.append(one)
        else:
            captions.append(one)
    skipped += [Skipped(*one) for one in chain.from_iterable(group.gather(unreadable))]
    return _gather(group, captions), skipped


def encode_picture(
    where: str, source: PictureSource, encoder: Encoder
) -> tuple[np.ndarray, np.ndarray]:
    """A picture (h, w, 3), of a kind that PictureCaptioner takes, and its feature.

    DataError : it cannot be read, or its feature is not finite, which `where` begins.
    """
    if isinstance(source, str) and is_url(source):
        picture = read_url(source)
    else:
        picture = read_picture(source)
    feature = encoder.encode([picture])[0]
    if not np.isfinite(feature).all():
        raise DataError(
            where,
            _name(source) or "the picture",
            f"has a feature by the encoder {encoder.name} that is not finite",
        )
    return picture, feature


def _name(source: PictureSource) -> str:
    """A path, URL or the name of an open file; else empty."""
    return str(source if isinstance(source, str | Path) else getattr(source, "name", None) or "")


def encoder_of(run: Run, where: str) -> Encoder:
    """The encoder of a run's features. DataError, which `where` begins: it has none here."""
    name = source_of(run).encoder
    if name is None:
        raise DataError(
            where,
            f"{run.path} learnt from features that",
            "were given to it",
            expected="a run whose data was prepared from pictures",
            cause="new pictures need the encoder that made those features; the command 'prepare'"
            " encodes a folder of pictures by a known one, to train on",
        )
    encoder = find_encoder(name)
    if encoder.shape != run.raw_shape:
        raise DataError(
            where,
            run.path,
            f"learnt from features of size {size(run.raw_shape)}",
            expected=f"the {size(encoder.shape)} of the {name} encoder",
            cause="prepared by another version?",
        )
    return encoder


def find_sources(
    paths: str | Path | Iterable[str | Path], on_remark: Callable[[str], object] | None
) -> tuple[list[str | Path], list[Skipped]]:
    """URLs as text and picture files as paths, in order; and the paths that hold none."""
    pictures: list[str | Path] = []
    skipped: list[Skipped] = []
    remarks: list[str] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            if isinstance(path, str) and is_url(path):
                pictures.append(path)
            else:
                pictures += find_pictures([path], remarks=remarks)
        except DataError as error:
            skipped.append(_skipped(Path(path), error))
    if on_remark is not None:
        for remark in remarks:
            on_remark(remark)
    return pictures, skipped


def _skipped(source: PictureSource, error: DataError) -> Skipped:
    return Skipped(_name(source), error.reason)


# Several runs as one


def is_run(path: str | Path) -> bool:
    """True if a run folder, perhaps damaged, or its first stage alone, is at `path`.

    An unreadable or impossible path is none.
    """
    try:
        return all((opened_folder(path) / name).is_file() for name in (CONFIG, VOCAB))
    except (OSError, ValueError):
        return False


def open_runs(
    paths: Sequence[str | Path], *, on_remark: Callable[[str], object] = warnings.warn
) -> Run[Captioner]:
    """Open run folders as one run, whose model is an Ensemble; one alone as by `open_run`.

    Its data, config, record and ranker are those of the first. `on_remark` is as in `open_run`.

    Raises
    ------
    DataError : as in `open_run`; or the runs differ in vocabulary, `max_words`, or the encoder,
        projection or scaling of features. ValueError : no path.
    """
    if not paths:
        raise InvalidValueError("open_runs", "", "got no run folder", expected="at least one")
    first, *others = (open_run(path, on_remark=on_remark) for path in paths)
    for other in others:
        if what := difference(first, other):
            raise DataError(
                "open_runs",
                f"{first.path} and {other.path}",
                what,
                expected="the same of runs that caption together",
                cause="were they trained on the same data?",
            )
    if not others:
        return first
    runs = (first, *others)
    return Run(
        first.path,
        first.config,
        first.vocabulary,
        first.scaling,
        Ensemble([run.model for run in runs]),
        first.meta,
        first.projection,
        tuple(run.path for run in others),
        first.ranker,
        first.ranking,
        tuple(first_stage for run in runs for first_stage in run.first_stage_models),
    )


def difference(first: Run[CaptioningRNN], other: Run[CaptioningRNN]) -> str:
    """The reason why two runs cannot read the same captions of the same features; empty: none."""
    runs = first, other
    if digest(first.vocabulary) != digest(other.vocabulary):
        return (
            f"have different vocabularies, of {_both(f'{len(run.vocabulary):,}' for run in runs)}"
            " words"
        )
    if first.config["max_words"] != other.config["max_words"]:
        return f"say at most {_both(run.config['max_words'] for run in runs)} words"
    if first.raw_shape != other.raw_shape:
        return f"take features of size {_both(size(run.raw_shape) for run in runs)}"
    if source_of(first).encoder != source_of(other).encoder:
        return (
            "take features from different encoders:"
            f" {_both(source_of(run).encoder or 'features that were given' for run in runs)}"
        )
    if not _alike(first.projection, other.projection):
        return "project features by different PCAs"
    if not _alike(first.scaling, other.scaling):
        return f"scale features differently, {_both(run.config['feature_scaling'] for run in runs)}"
    return ""


def _both(texts: Iterable[object]) -> str:
    return " and ".join(map(str, texts))


def _alike(one: Sequence[Array] | None, other: Sequence[Array] | None) -> bool:
    """True if both have the same arrays, or both are None."""
    return (one is None) == (other is None) and all(map(np.array_equal, one or (), other or ()))
