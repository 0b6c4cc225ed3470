"""The contenders; each prepares a configuration, and then trains or captions when it is called."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.textbook import Textbook
from benchmarks.timing import clock_of, host_clock, peak_memory
from benchmarks.work import (
    CLIP,
    LEARNING_RATE,
    MAX_WORDS,
    POLICIES,
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
from xpcap.backend import asarray, get_backend, use_backend
from xpcap.backend.switch import array_module
from xpcap.data.dataset import CaptionData
from xpcap.data.loader import BatchLoader
from xpcap.models import CaptioningRNN


class Contender(NamedTuple):
    """Functions that prepare training, and captioning by GREEDY or BEAM, on a backend's device."""

    train: Callable[[Config, CaptionData, str], Job]
    caption: Callable[[Config, CaptionData, str, str], Sample]


def train_xpcap(config: Config, data: CaptionData, backend: str) -> Job:
    """xpcap's solver. On a GPU features are uploaded before; a step packs and uploads captions.

    `solver.step` returns a copy of the loss. On a GPU this is one call and a small allocation more
    than in a step of `train`.
    """
    use_backend(backend)
    xp = array_module()
    pool = None if xp is np else xp.get_default_memory_pool()
    if pool is not None:
        _check_device(config, data)
        gc.collect()
        pool.free_all_blocks()  # its final size is then due to this configuration alone
    solver = make_solver(config, data)
    loader = BatchLoader(data, solver.model.params.flat)
    batches = [loader.minibatch("train", rows)[:2] for rows in batch_rows(config, data)]
    return Job(
        step=lambda k: solver.step(*batches[k]),
        clock=clock_of(solver.model.params.flat),
        memory=peak_memory if pool is None else lambda: int(pool.total_bytes()),
    )


def _check_device(config: Config, data: CaptionData) -> None:
    """Compare the training loss on the device with NumPy's."""
    no_dropout, batch = replace(config, dropout=0.0), host_batches(config, data)[0]
    loss, _ = make_model(no_dropout, data).loss(*batch)
    title = f"{config.name}, xpcap on {get_backend()}"
    check_same_loss(float(loss), host_model(no_dropout, data), batch, title)


def caption_xpcap(config: Config, data: CaptionData, backend: str, work: str) -> Sample:
    """xpcap's captioner: it captions all pictures at once, and drops finished captions."""
    use_backend(backend)
    model, pictures = make_ending_model(config, data), asarray(config.pictures())
    return lambda: model.sample(pictures, policy=POLICIES[work])


def train_textbook(config: Config, data: CaptionData, backend: str) -> Job:
    """The textbook NumPy captioner, as CS231n teaches it."""
    ours, batches = host_model(config, data), host_batches(config, data)
    course = _textbook(ours)
    check_same_loss(course.loss(*batches[0])[0], ours, batches[0], f"{config.name}, textbook")
    return Job(lambda k: course.step(*batches[k]), host_clock)


def caption_textbook(config: Config, data: CaptionData, backend: str, work: str) -> Sample:
    """The textbook captioner, which decodes only greedily and never stops early; words after END
    are cut off afterwards.
    """
    course, pictures = _textbook(host_model(config, data, ending=True)), config.pictures()
    end, null = data.vocabulary.end, data.vocabulary.null

    def sample() -> np.ndarray:
        captions = course.sample(pictures, MAX_WORDS)
        ended = np.cumsum(captions == end, axis=1) - (captions == end) > 0
        return np.where(ended, null, captions)

    return sample


def _textbook(ours: CaptioningRNN) -> Textbook:
    null, start = (ours.word_to_idx[word] for word in ("<NULL>", "<START>"))
    return Textbook(dict(ours.params), null, start, LEARNING_RATE, CLIP)


def torch(layout: str) -> Contender:
    """PyTorch with a layout, `padded` or `packed`; it is imported only when it is timed."""

    def train(config: Config, data: CaptionData, backend: str) -> Job:
        from benchmarks import peer_torch

        return peer_torch.train(config, data, backend, layout)

    def caption(config: Config, data: CaptionData, backend: str, work: str) -> Sample:
        from benchmarks import peer_torch

        return peer_torch.caption(config, data, backend, work, layout)

    return Contender(train, caption)


CONTENDERS = {
    "xpcap": Contender(train_xpcap, caption_xpcap),
    "textbook": Contender(train_textbook, caption_textbook),
    "torch padded": torch("padded"),
    "torch packed": torch("packed"),
}
