"""A program that computes with xpcap in threads other than the main one. test_threads.py runs it,
with two versions of threadpoolctl.

python tests/helpers/threads.py          prints digests of results, and BLAS's threads before and after, as JSON
python tests/helpers/threads.py owned    the same, after the main thread has set a limit by threadpoolctl
python tests/helpers/threads.py alone    digests of the main thread alone
python tests/helpers/threads.py first    the same, xpcap imported before NumPy
"""

import hashlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

if sys.argv[1:] == ["first"]:
    import xpcap  # noqa: F401
import numpy as np
import threadpoolctl

from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.backend.threads import one_blas_thread
from xpcap.data.synthetic import draw_data
from xpcap.layers import temporal_affine_backward, temporal_affine_forward

DATA = draw_data(128, 96, 700, seed=0)
SMALL, LARGE = 20, 128  # captions in a batch: one part, and a part for each core


def digest(*arrays: np.ndarray) -> str:
    bits = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.sha256(bits).hexdigest()[:12]


def captioner() -> CaptioningRNN:
    words = DATA.vocabulary.word_to_idx
    return CaptioningRNN(words, DATA.feature_dim, 64, 160, "lstm", np.float32, seed=0)


def solve(batch: int) -> str:
    options = {"update_rule": "adam", "batch_size": batch, "clip_norm": 5.0, "verbose": False}
    solver = CaptioningSolver(captioner(), DATA, seed=0, **options)
    for _ in range(3):
        solver.step(*DATA.minibatch("train", np.arange(batch)))
    return digest(solver.model.params.flat)


def caption() -> str:
    features = DATA.features("train", np.arange(128))
    return digest(*captioner().sample_with_probabilities(features, 8))


def layer() -> str:
    rng, shapes = np.random.default_rng(0), ((40, 20, 160), (160, 700), (700,))
    x, w, b = (rng.standard_normal(shape, np.float32) for shape in shapes)
    out, cache = temporal_affine_forward(x, w, b)
    return digest(out, *temporal_affine_backward(out, cache))


WORK: dict[str, Callable[[], str]] = {
    "small": lambda: solve(SMALL),
    "large": lambda: solve(LARGE),
    "caption": caption,
    "layer": layer,
}


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def beside(work: Callable[[], Any], other: Callable[[], Any], in_main: bool) -> Any:
    """The result of `work` while another thread does `other` again and again; one of the two is the
    main thread.
    """
    end, found = threading.Event(), []

    def again() -> None:
        while not end.is_set():
            other()

    def once() -> None:
        try:
            found.append(work())
        finally:
            end.set()

    thread = threading.Thread(target=again if in_main else once)
    thread.start()
    (once if in_main else again)()
    thread.join()
    return found[0]


def threads() -> list[int]:
    libraries = threadpoolctl.threadpool_info()
    return [found["num_threads"] for found in libraries if found["user_api"] == "blas"]


def outlive() -> None:
    """Hold BLAS in a thread that begins within main's hold, and ends after it."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one_blas_thread():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    with one_blas_thread():
        thread.start()
        inside.wait()
    leave.set()
    thread.join()


def main() -> None:
    before = threads()
    if before and sys.argv[1:] == ["owned"]:
        # Main sets a limit for good: from 3.8 on no other thread can then set one by threadpoolctl
        threadpoolctl.threadpool_limits(before[0], user_api="blas")
    found: dict[str, Any] = {"version": threadpoolctl.__version__, "threads": before}
    found["main"] = {name: work() for name, work in WORK.items()}
    if sys.argv[1:] in (["alone"], ["first"]):
        print(json.dumps(found))
        return
    found["thread"] = {name: in_thread(work) for name, work in WORK.items()}
    found["beside"] = {}
    for in_main in (True, False):
        where = "main" if in_main else "thread"
        for name, work in WORK.items():
            other = WORK["small" if name == "large" else "large"]
            found["beside"][f"{name} in {where}"] = beside(work, other, in_main)
    outlive()
    found["after"] = threads()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
