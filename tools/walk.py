"""Count how far a reader travels through xpcap to follow one call.

    python tools/walk.py CHECKOUT [--json]

Each path is run once to warm up, then once more under a profiler: forward and backward pass of an
LSTM, a training step, a caption, the grading of one function, and the commands `train own.h5` and
`caption RUN photo.png`. BLAS has one thread, and only calls in the calling thread count, so two runs
on one version of Python print the same figures.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import measure_cli

HIDDEN, WORDS, STEPS = 6, 20, 8

SUBMISSION = """
import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    i, f, o, g = np.split(x @ Wx + prev_h @ Wh + b, 4, axis=1)
    i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), np.tanh(g)
    next_c = f * prev_c + i * g
    return o * np.tanh(next_c), next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c)
"""


@dataclasses.dataclass(frozen=True)
class Walk:
    """Size of the code that one call passes through.

    Attributes
    ----------
    functions : different functions that are entered
    files : different files that they are in
    changes : calls of a function in another file than the function called before it
    depth : most calls that are open at once
    """

    functions: int
    files: int
    changes: int
    depth: int


def measure(folder: Path, function: Callable[..., Any], *args: Any) -> tuple[Walk, Any]:
    """Call a function and count its walk through the code in `folder`; also return its result."""
    inside = f"{folder.resolve()}{os.sep}"
    entered: list[CodeType] = []
    depth = deepest = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth, deepest
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(inside):
            return
        if event == "call":
            entered.append(code)
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1

    sys.setprofile(profile)
    try:
        result = function(*args)
    finally:
        sys.setprofile(None)

    files = [code.co_filename for code in entered]
    changes = sum(file != before for before, file in zip([None, *files], files, strict=False))
    return Walk(len(set(entered)), len(set(files)), changes, deepest), result


def walks(checkout: Path) -> Iterator[tuple[str, Walk]]:
    """Walk each path through the xpcap of a checkout, in a process that has not imported it."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded
    os.environ["XPCAP_BACKEND"] = "numpy"
    sys.path.insert(0, str(checkout.resolve()))
    import xpcap

    package = checkout.resolve() / "xpcap"
    if not Path(str(xpcap.__file__)).is_relative_to(package):
        raise SystemExit(f"walk: xpcap comes from {xpcap.__file__}, expected {package}")
    yield from _layer(package)
    yield "training step", _training_step(package)
    yield "caption", _caption(package)
    yield "grading", _grading(package)
    yield from _commands(package)


def _layer(package: Path) -> Iterator[tuple[str, Walk]]:
    import numpy as np

    from xpcap import layers

    N, T, D, H = 3, 4, 5, HIDDEN
    rng = np.random.default_rng(0)
    shapes = (N, T, D), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,)
    inputs = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    layers.lstm_backward(*layers.lstm_forward(*inputs))
    # h stands in for its gradient
    forward, (h, cache) = measure(package, layers.lstm_forward, *inputs)
    yield "lstm_forward", forward
    yield "lstm_backward", measure(package, layers.lstm_backward, h, cache)[0]


def _data_and_model() -> tuple[Any, Any]:
    from xpcap import CaptioningRNN
    from xpcap.data.synthetic import draw_data

    data = draw_data(8, 5, WORDS, seed=0)
    words = data.vocabulary.word_to_idx
    model = CaptioningRNN(
        words, data.feature_dim, wordvec_dim=4, hidden_dim=HIDDEN, cell_type="lstm", seed=0
    )
    return data, model


def _training_step(package: Path) -> Walk:
    import numpy as np

    from xpcap import CaptioningSolver

    data, model = _data_and_model()
    solver = CaptioningSolver(
        model, data, update_rule="adam", batch_size=4, clip_norm=5.0, seed=0, verbose=False
    )
    batch = data.minibatch("train", np.arange(4))
    solver.step(*batch)
    return measure(package, solver.step, *batch)[0]


def _caption(package: Path) -> Walk:
    import numpy as np

    from xpcap import decode_captions

    data, model = _data_and_model()
    features = data.features("train", np.arange(1))

    def caption() -> str | list[str]:
        return decode_captions(model.sample(features, max_length=STEPS), model.idx_to_word)

    caption()
    return measure(package, caption)[0]


def _grading(package: Path) -> Walk:
    """Of the parent process; the submission runs in a child."""
    from xpcap import grading

    with tempfile.TemporaryDirectory() as folder:
        submission = Path(folder) / "rnn_layers.py"
        submission.write_text(SUBMISSION, encoding="utf-8")

        def grade() -> list[Any]:
            return grading.grade(submission, only=["lstm_step_forward"])

        grade()
        walk, results = measure(package, grade)
    if [result.passed for result in results] != [True]:
        raise SystemExit(f"walk: the grading gave {results}, expected one function that passes")
    return walk


def _commands(package: Path) -> Iterator[tuple[str, Walk]]:
    import contextlib
    import csv
    import io

    import numpy as np
    from PIL import Image

    from xpcap.cli import main

    def call(*words: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(words, standalone_mode=False)

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("photos").mkdir()
        rng = np.random.default_rng(0)
        rows = [("image", "caption")]
        for k in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(f"photos/{k}.png")
            rows.append((f"{k}.png", f"a {('red', 'blue')[k % 2]} square"))
        with Path("own.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        call("prepare", "own.csv", *"--pictures photos --encoder histogram --out own.h5".split())
        train = "train own.h5 --hidden 6 --wordvec 4 --epochs 1 --out".split()
        call(*train, "runs/warm")
        yield "train own.h5", measure(package, call, *train, "runs/own")[0]
        call("caption", "runs/own", "photos/0.png")
        yield "caption photo", measure(package, call, "caption", "runs/own", "photos/0.png")[0]


def show(found: dict[str, Walk]) -> None:
    print(f"{'path':15}{'functions':>10}{'files':>7}{'changes':>9}{'depth':>7}")
    for path, walk in found.items():
        print(f"{path:15}{walk.functions:10}{walk.files:7}{walk.changes:9}{walk.depth:7}")


def as_json(found: dict[str, Walk]) -> dict[str, dict[str, int]]:
    return {path: dataclasses.asdict(walk) for path, walk in found.items()}


if __name__ == "__main__":
    measure_cli.run(__doc__, lambda checkout: dict(walks(checkout)), as_json, show)
