"""The contenders: each prepares a configuration, then trains or samples captions on request."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.textbook import Textbook
from benchmarks.timing import clock_of, host_clock, peak_memory
from benchmarks.work import (
    BEAM,
    CLIP,
    LEARNING_RATE,
    MOST_WORDS,
    Config,
    Job,
    Sample,
    batch_rows,
    check_same_loss,
    host_batches,
    host_model,
    make_ending_model,
    make_model,
    make_solver,
)
from xpcap.backend import Array, array_module, asarray, get_backend, use_backend
from xpcap.data.dataset import CaptionData
from xpcap.data.features import fit_scaling
from xpcap.data.loader import BatchLoader
from xpcap.models import CaptioningRNN


class Contender(NamedTuple):
    """How a contender prepares to train, to sample and to search, on the device of a backend."""

    train: Callable[[Config, CaptionData, str], Job]
    sample: Callable[[Config, CaptionData, str], Sample] | None = None
    search: Callable[[Config, CaptionData, str], Sample] | None = None


def train_xpcap(config: Config, data: CaptionData, backend: str) -> Job:
    """xpcap's solver. On a GPU features are in its memory before; a step packs and sends captions.

    `solver.step` returns a copy of the loss: on a GPU one call and one small allocation that a step
    of `train` has not.
    """
    use_backend(backend)
    xp = array_module()
    if xp is not np:
        _check_device(config, data)
    pool = None if xp is np else xp.get_default_memory_pool()
    if pool is not None:
        gc.collect()
        pool.free_all_blocks()  # so that its size at the end is due to this configuration alone
    solver = make_solver(config, data)
    flat = solver.model.params.flat
    feed, rows = BatchLoader(data, flat), batch_rows(config, data)
    batches = [feed.minibatch("train", numbers)[:2] for numbers in rows]
    return Job(
        step=lambda k: solver.step(*batches[k]),
        clock=clock_of(flat),
        memory=peak_memory if pool is None else lambda: int(pool.total_bytes()),
        feed=_feeder(data, flat, rows) if pool is None else None,
    )


def _check_device(config: Config, data: CaptionData) -> None:
    """Compare the loss on the device, as training computes it, with NumPy's."""
    plain, batch = replace(config, dropout=0.0), host_batches(config, data)[0]
    loss, _ = make_model(plain, data).loss(*batch)
    check_same_loss(
        float(loss), host_model(plain, data), batch, f"{config.name}, xpcap on {get_backend()}"
    )


def _feeder(data: CaptionData, like: Array, rows: np.ndarray) -> Callable[[int], object]:
    """A function that prepares batch k as `train` does by default: features are standardised."""
    feed = BatchLoader(
        replace(data, scaling=fit_scaling("standardize", data.split("train").features)), like
    )
    return lambda k: feed.minibatch("train", rows[k])


def sample_xpcap(config: Config, data: CaptionData, backend: str) -> Sample:
    """xpcap's captioner: all pictures at once, dropping captions as they end."""
    use_backend(backend)
    model, pictures = make_ending_model(config, data), asarray(config.pictures())
    return lambda: model.sample(pictures, max_length=MOST_WORDS)


def search_xpcap(config: Config, data: CaptionData, backend: str) -> Sample:
    """xpcap's beam search of all pictures at once, dropping hypotheses and pictures as they end."""
    use_backend(backend)
    model, pictures = make_ending_model(config, data), asarray(config.pictures())
    return lambda: model.sample(pictures, policy=BEAM)


def train_textbook(config: Config, data: CaptionData, backend: str) -> Job:
    """The textbook NumPy captioner, as CS231n teaches it."""
    ours, batches = host_model(config, data), host_batches(config, data)
    course = _textbook(ours, config.dropout)
    check_same_loss(course.loss(*batches[0])[0], ours, batches[0], f"{config.name}, textbook")
    return Job(lambda k: course.step(*batches[k]), host_clock, lambda: None)


def sample_textbook(config: Config, data: CaptionData, backend: str) -> Sample:
    """The textbook captioner, which never stops early: words after END are cut off afterwards."""
    course, pictures = _textbook(host_model(config, data, make_ending_model)), config.pictures()
    end, null = data.vocabulary.end, data.vocabulary.null

    def sample() -> np.ndarray:
        captions = course.sample(pictures, MOST_WORDS)
        ended = np.cumsum(captions == end, axis=1) - (captions == end) > 0
        return np.where(ended, null, captions)

    return sample


def _textbook(ours: CaptioningRNN, dropout: float = 0.0) -> Textbook:
    word_to_idx = ours.word_to_idx
    return Textbook(
        dict(ours.params),
        word_to_idx["<NULL>"],
        word_to_idx["<START>"],
        LEARNING_RATE,
        CLIP,
        dropout,
    )


def torch(layout: str) -> Contender:
    """PyTorch with a layout, `padded` or `packed`, imported only where it is timed."""

    def train(config: Config, data: CaptionData, backend: str) -> Job:
        from benchmarks import peer_torch

        return peer_torch.train(config, data, backend, layout)

    def sample(config: Config, data: CaptionData, backend: str) -> Sample:
        from benchmarks import peer_torch

        return peer_torch.sample(config, data, backend, layout)

    def search(config: Config, data: CaptionData, backend: str) -> Sample:
        from benchmarks import peer_torch

        return peer_torch.search(config, data, backend, layout)

    return Contender(train, sample, search)


def train_torch_graph(config: Config, data: CaptionData, backend: str) -> Job:
    """PyTorch's padded step, captured in CUDA graphs."""
    from benchmarks import peer_torch

    return peer_torch.train_captured(config, data, backend)


CONTENDERS = {
    "xpcap": Contender(train_xpcap, sample_xpcap, search_xpcap),
    "textbook": Contender(train_textbook, sample_textbook),
    "torch padded": torch("padded"),
    "torch packed": torch("packed"),
    "torch graph": Contender(train_torch_graph),
}
