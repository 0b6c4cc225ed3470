"""What the commands train, evaluate and caption do, as functions: options in, a run folder or scores out."""

import contextlib
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap import checkpoint
from xpcap.backend import get_backend
from xpcap.data import CaptionData, open_data, write_dataset
from xpcap.data.dataset import spread
from xpcap.data.pictures import generate, picture_of
from xpcap.data.scaling import fit_scaling
from xpcap.data.vocabulary import UNK
from xpcap.errors import DataError
from xpcap.metrics import BLEU_PROTOCOL, PERPLEXITY_PROTOCOL, UNIGRAM_PROTOCOL, corpus_bleu, teacher_forced, unigram_bleu
from xpcap.models import CaptioningRNN
from xpcap.report import draw_captions, draw_loss
from xpcap.sampling import caption_pictures
from xpcap.solver import CaptioningSolver

GENERATED = "data.h5"  # where a run on generated pictures keeps them
SHOWN = 6  # pictures in samples.png


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train`; their defaults are stated here and nowhere else."""

    data: Path | None = None  # None: generated pictures
    out: Path | None = None  # None: a fresh folder under runs/
    cell: str = "lstm"
    hidden: int = 512
    wordvec: int = 256
    epochs: int = 12
    batch_size: int = 64
    lr: float = 1e-3
    lr_decay: float = 0.9
    clip: float = 50.0
    dropout: float = 0.5
    feature_scaling: str = "standardize"
    seed: int = 0


class PictureCaption(NamedTuple):
    """A picture's name, the caption sampled for it, and its references."""

    image: str
    caption: str
    references: list[str]


class Evaluation(NamedTuple):
    """Scores of a run on a split."""

    split: str
    n: int  # pictures
    bleu: tuple[float, float, float, float]
    unigram_bleu: float
    perplexity: float
    loss: float
    accuracy: float
    seconds: float
    protocol: dict[str, str]
    captions: dict[str, str]  # picture name to caption


def with_out(options: TrainOptions) -> TrainOptions:
    """The options with a place to write to: where none is given, the first of runs/NAME, runs/NAME-2, ... that does not exist."""
    if options.out is not None:
        return options
    name = f"{options.data.resolve().stem if options.data else 'pictures'}-{options.cell}"
    k = 1
    while (path := Path("runs") / (name if k == 1 else f"{name}-{k}")).exists():
        k += 1
    return replace(options, out=path)


def train_run(options: TrainOptions, on_epoch: Callable[[CaptioningSolver], None] | None = None, progress: bool = False) -> checkpoint.Run:
    """Train a captioner and leave a run folder.

    Parameters
    ----------
    options : what to train, and where to
    on_epoch : called with the solver after each epoch, once the epoch is on disk

    Returns
    -------
    The run, opened with its best parameters.

    Raises
    ------
    DataError : the data is not what it should be, or the folder exists. OSError : the place cannot be written to.
    """
    out = with_out(options).out
    assert out is not None
    data = open_data(options.data) if options.data else generate(options.seed)
    data.scaling = fit_scaling(options.feature_scaling, data.split("train").features)
    model = CaptioningRNN(
        data.vocabulary.word_to_idx, data.feature_dim, options.wordvec, options.hidden, options.cell, dropout=options.dropout, seed=options.seed
    )  # fmt: skip

    def save(solver: CaptioningSolver) -> None:
        record = {**solver.history[-1], "vocabulary": checkpoint.digest(data.vocabulary)}
        checkpoint.save_parameters(out / checkpoint.LAST, model.params, data.scaling, record)
        if solver.best_epoch == solver.epoch:
            checkpoint.save_parameters(out / checkpoint.BEST, model.params, data.scaling, record)
        checkpoint.write_lines(out / checkpoint.HISTORY, solver.history)
        checkpoint.write_lines(out / checkpoint.TIMES, solver.times)
        draw_loss(out / "loss.png", solver.history)
        if on_epoch is not None:
            on_epoch(solver)

    solver = CaptioningSolver(
        model, data, update_rule="adam", optim_config={"learning_rate": options.lr}, lr_decay=options.lr_decay, batch_size=options.batch_size,
        num_epochs=options.epochs, clip_norm=options.clip or None, seed=options.seed, verbose=False, progress=progress, on_epoch=save,
    )  # fmt: skip
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        checkpoint.create_run(out, _config(options, data), data.vocabulary)
        if options.data is None:
            write_dataset(out / GENERATED, data)
        with np.errstate(all="ignore"):  # a loss that is not finite is an error of the solver's, with more to say
            solver.train()
    except BaseException:
        if made and not (out / checkpoint.BEST).exists():
            _remove(made)  # nothing in there to keep, and the same command may be given again
        raise
    run = checkpoint.open_run(out)
    if options.data is None:
        _draw_samples(run)
    return run


def _remove(made: list[Path]) -> None:
    """Remove the run folder that was just made, made[0], and the parents made for it, as far as they are empty."""
    shutil.rmtree(made[0], ignore_errors=True)
    for parent in made[1:]:
        with contextlib.suppress(OSError):  # not made yet, or in use by somebody else by now
            parent.rmdir()


def _config(options: TrainOptions, data: CaptionData) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(options).items() if key != "out"}
    settings["data"] = str(options.data.resolve()) if options.data else GENERATED
    made = {"backend": get_backend(), "feature_dim": data.feature_dim, "max_words": data.max_words, "vocabulary": len(data.vocabulary)}
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {**settings, **made, **versions, "data_stamp": data.stamp, "source": dict(data.source)}


def data_of(run: checkpoint.Run, file: Path | None, split: str) -> tuple[CaptionData, list[list[str]]]:
    """A split of the data set `file` (the run's own where None) as the run sees it, and its captions as words.

    As the run sees it: encoded with the run's vocabulary, uncut, and scaled as the run scales. The words are the data set's own.

    Raises
    ------
    DataError : the file or the split is not there, does not fit the run, or is the run's own and has changed since.
    """
    path = file or run.path / run.config["data"]  # an absolute path stays what it is
    if file is None and not path.exists():
        raise DataError(f"{run.path}: its data, {path}, is gone, expected the file it was trained on; name where it is now with --data")
    data = open_data(path)
    if file is None and run.config["data_stamp"] not in ("", data.stamp):
        raise DataError(f"{run.path}: its data, {path}, has changed since it was trained, expected the same; score it as another file with --data")
    if data.feature_dim != run.config["feature_dim"]:
        raise DataError(f"{path} has features of size {data.feature_dim}, expected the run's {run.config['feature_dim']}; made by another encoder?")
    words = data.words(split)
    data = data.encoded_with(run.vocabulary, split)
    data.scaling = run.scaling
    return data, words


def evaluate_run(run: checkpoint.Run, file: Path | None = None, split: str = "val", progress: bool = False) -> Evaluation:
    """Score a run on a split of a data set, its own where `file` is None: greedy captions against all references, and perplexity.

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run.
    """
    start = time.perf_counter()
    data, words = data_of(run, file, split)
    scores = teacher_forced(run.model, data, split, progress=progress)
    chunk = data.split(split)
    references: dict[int, list[list[str]]] = {}
    for picture, caption in zip(chunk.image_idxs.tolist(), words, strict=True):
        references.setdefault(picture, []).append([word for word in caption if word != UNK])
    pictures = np.array(sorted(references))
    captions = _captions(run, data, split, pictures, progress)
    of_picture = dict(zip(pictures.tolist(), captions, strict=True))
    return Evaluation(
        split=split,
        n=len(pictures),
        bleu=corpus_bleu([references[i] for i in of_picture], captions),
        unigram_bleu=unigram_bleu([data.vocabulary.words(ids[1:]) for ids in chunk.captions], [of_picture[i] for i in chunk.image_idxs.tolist()]),
        perplexity=scores.perplexity,
        loss=scores.loss,
        accuracy=scores.accuracy,
        seconds=time.perf_counter() - start,
        protocol={"bleu": BLEU_PROTOCOL, "unigram_bleu": UNIGRAM_PROTOCOL, "perplexity": PERPLEXITY_PROTOCOL},
        captions={chunk.images[i]: " ".join(words) for i, words in of_picture.items()},
    )


def caption_run(run: checkpoint.Run, file: Path | None = None, split: str = "val", count: int = 10) -> list[PictureCaption]:
    """Greedy captions of `count` pictures spread evenly over a split, each beside its references."""
    data, _ = data_of(run, file, split)
    references = data.references(split)
    chosen = np.fromiter(references, np.int64)[spread(len(references), count)]
    captions = _captions(run, data, split, chosen)
    images = data.split(split).images
    return [PictureCaption(images[i], " ".join(words), references[i]) for i, words in zip(chosen.tolist(), captions, strict=True)]


def _captions(run: checkpoint.Run, data: CaptionData, split: str, pictures: np.ndarray, progress: bool = False) -> list[list[str]]:
    return caption_pictures(run.model, data, split, pictures, max_words=run.config["max_words"], progress=progress)


def _draw_samples(run: checkpoint.Run) -> None:
    shown = caption_run(run, count=SHOWN)
    pictures = [picture_of(picture.image, run.config["seed"]) for picture in shown]
    draw_captions(run.path / "samples.png", pictures, [p.caption for p in shown], [p.references[0] for p in shown])
