"""Cores and threads: nothing of work side by side is lost, BLAS is given back its threads, a step in
parts is the step, and any thread has the bits of the main one.
"""

import contextvars
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import program
from threadpoolctl import threadpool_info, threadpool_limits

from xpcap import CaptioningRNN, CaptioningSolver, layers
from xpcap.backend import plain_code, use_backend
from xpcap.backend.memory import Workspace
from xpcap.backend.threads import cores, one_blas_thread, parallel_map, split_evenly
from xpcap.data.synthetic import draw_data
from xpcap.decoding import decode
from xpcap.layers.lstm import LSTM
from xpcap.models import network
from xpcap.training import CrossEntropy

D, W, H, V, P, N = 7, 5, 6, 60, 4, 96  # three parts of 32 captions
pytestmark = pytest.mark.threads
CELLS = pytest.mark.parametrize("cell", [*layers.CELLS, "plain"])


@pytest.fixture(autouse=True)
def on_the_host() -> Any:
    with use_backend("numpy"):
        yield


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def make(cell: str = "lstm", dtype: Any = np.float64, inject: str = "init") -> CaptioningRNN:
    words = draw_data(1, D, V, 0).vocabulary.word_to_idx
    size = (P, D) if "attention" in inject else D
    return CaptioningRNN(words, size, W, H, cell, dtype, dropout=0.3, inject=inject, seed=3)


# BLAS on one thread


@pytest.mark.parametrize("first", ["main", "other"])
def test_blas_has_its_threads_back_once_the_last_thread_has_left(first: str) -> None:
    before, seen = blas_threads(), []
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one_blas_thread():
            inside.set()
            leave.wait()
            seen.append(blas_threads())

    other = threading.Thread(target=hold)
    with one_blas_thread():
        with one_blas_thread():
            other.start()
            inside.wait()
        if first == "other":
            leave.set()
            other.join()
        seen.append(blas_threads())
    leave.set()
    other.join()
    assert seen == 2 * [[1] * len(before)]
    assert blas_threads() == before
    with pytest.raises(ZeroDivisionError):
        one_blas_thread()(lambda: 1 // 0)()
    assert blas_threads() == before
    with threadpool_limits(4, user_api="blas"):
        with one_blas_thread():
            threadpool_limits(3, user_api="blas")  # somebody sets it meanwhile
        assert blas_threads() == [3] * len(before)


FORKED = """
import os, signal, threading
import numpy as np
from threadpoolctl import threadpool_info
from xpcap.backend.threads import one_blas_thread, parallel_map

def threads():
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
def hold():
    with one_blas_thread():
        inside.set()
        leave.wait()
def fork():
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    signal.alarm(600)  # ends a child that hangs
    begin = threads()
    right = [(product == 300).all() for product in parallel_map(x.dot, [x, x])]
    within = parallel_map(lambda _: threads(), [0, 1])
    os._exit(not (all(right) and within == 2 * [[1] * len(before)] and begin == threads() == before))
x, before = np.ones((300, 300)), threads()
parallel_map(x.dot, [x, x])
fork()
inside, leave = threading.Event(), threading.Event()
other = threading.Thread(target=hold)
other.start()
inside.wait()
fork()
leave.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_works_in_parallel_and_has_blas_as_it_was() -> None:
    """Where nothing works, and where a thread holds BLAS."""
    program(FORKED, flags=("-W", "ignore"))


# Side by side


def test_results_come_in_order_from_threads_of_their_own() -> None:
    meet = threading.Barrier(min(3, os.cpu_count() or 1))  # broken unless all are under way at once

    def work(k: int) -> tuple[int, str]:
        meet.wait()
        return k, threading.current_thread().name

    found = parallel_map(work, range(meet.parties))
    assert [k for k, _ in found] == list(range(meet.parties))
    assert len({name for _, name in found}) == meet.parties


@pytest.mark.parametrize(("wrong", "error"), [(0, ArithmeticError), (1, KeyboardInterrupt)])
def test_an_error_in_any_part_is_raised_once_all_have_ended(
    wrong: int, error: type[BaseException]
) -> None:
    before, ended, raised = blas_threads(), [], threading.Event()

    def work(k: int) -> None:
        if k == wrong:
            raised.set()
            raise error
        raised.wait()
        ended.append(k)

    with pytest.raises(error):
        parallel_map(work, (0, 1))
    assert ended == [1 - wrong]
    assert blas_threads() == before


def test_cores_are_the_threads_that_blas_may_use() -> None:
    if not blas_threads():
        pytest.skip("NumPy's BLAS is none that threadpoolctl knows")
    with threadpool_limits(1, user_api="blas"):
        assert cores() == 1
    assert cores() == min(blas_threads())


@pytest.mark.parametrize("parts", [1, 2])
def test_parts_see_the_callers_context_and_one_blas_thread_and_are_not_cut_again(
    parts: int,
) -> None:
    variable = contextvars.ContextVar("test", default=0)
    variable.set(5)

    def work(_: int) -> tuple[int, list[int], set[str]]:
        names = parallel_map(lambda _: threading.current_thread().name, (0, 1))
        return variable.get(), blas_threads(), {*names}

    for value, threads, names in parallel_map(work, range(parts)):
        assert (value, threads) == (5, [1] * len(blas_threads()))
        assert len(names) == 1 or parts == 1


def test_stretches_cover_everything_once() -> None:
    for length in (0, 1, 5, 100):
        for parts in (0, 1, 3, 7):
            found = [i for stretch in split_evenly(length, parts) for i in range(length)[stretch]]
            assert found == list(range(length))
            assert len(split_evenly(length, parts)) == max(1, min(parts, length))


# A step in parts


@pytest.fixture
def parts_of_32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part have 32 captions at least, however small the model is."""
    monkeypatch.setattr(network, "MIN_CAPTIONS_PER_CORE", 32)
    monkeypatch.setattr(network, "MIN_PRODUCT", 1)


@CELLS
@pytest.mark.usefixtures("new_cells", "parts_of_32")
@pytest.mark.parametrize("inject", ["init", "attention+every-step"])
def test_a_step_in_parts_is_the_step_of_the_plain_equations(cell: str, inject: str) -> None:
    """Loss and every gradient to 1e-12, with dropout, whose masks are drawn for the whole batch."""
    data = draw_data(N, D, V, seed=1)
    captions = data.split("train").captions
    captions[3, 4] = data.vocabulary.null  # a NULL within a caption
    features = data.features("train", np.arange(N))
    if inject != "init":
        features = np.random.default_rng(2).standard_normal((N, P, D))
    with plain_code.plain():
        loss, grads = make(cell, inject=inject).loss(features, captions)
    for parts in (1, 2, 3, 8):
        workspace = Workspace(grads.flat, parts)
        for _ in range(2):  # a used workspace too
            got, parted = make(cell, inject=inject).loss(features, captions, workspace=workspace)
        assert [space.nbytes > 0 for space in workspace.parts] == [k < 3 for k in range(parts)]
        assert float(got) == pytest.approx(float(loss), rel=1e-12)
        for name, grad in grads.items():
            scale = np.abs(grad).max()
            np.testing.assert_allclose(
                parted[name], grad, rtol=0, atol=1e-12 * scale, err_msg=f"{parts} parts: {name}"
            )


def trained(parts: int, dtype: Any = np.float64) -> np.ndarray:
    data, model = draw_data(2 * N, D, V, seed=2), make(dtype=dtype)
    workspace = Workspace(model.params.flat, parts)
    how: dict[str, Any] = {"update_rule": "adam", "clip_norm": 5.0, "seed": 0, "verbose": False}
    how["objective"] = lambda model, batch, _: CrossEntropy().loss(model, batch, workspace)
    solver = CaptioningSolver(model, data, batch_size=N, **how)
    for k in range(20):
        solver.step(*data.minibatch("train", np.arange(N) + N * (k % 2)))
    return solver.model.params.flat.copy()


@pytest.mark.usefixtures("parts_of_32")
def test_twenty_steps_in_parts_end_where_the_plain_equations_end_with_the_same_bits() -> None:
    with plain_code.plain():
        plain = trained(1)
    np.testing.assert_allclose(trained(3), plain, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(trained(3, np.float32), trained(3, np.float32))


class Noting(CrossEntropy):
    """Notes the workspace that it is given."""

    def loss(self, model: Any, batch: Any, workspace: Any = None) -> Any:
        self.workspace = workspace
        return super().loss(model, batch, workspace)


@pytest.mark.usefixtures("parts_of_32")
def test_the_solver_takes_as_many_parts_as_cores_and_few_captions_are_one() -> None:
    data, noting = draw_data(N, D, V, seed=1), Noting()
    solver = CaptioningSolver(make(), data, batch_size=N, seed=0, verbose=False, objective=noting)
    solver.step(*data.minibatch("train", np.arange(N)))
    assert len(noting.workspace.parts) == cores()
    workspace = Workspace(solver.model.params.flat, 3)
    solver.model.loss(*data.minibatch("train", np.arange(40)), workspace=workspace)
    assert [space.nbytes > 0 for space in workspace.parts] == [True, False, False]


@pytest.mark.usefixtures("parts_of_32")
def test_steps_make_no_large_array_once_the_buffers_are_there() -> None:
    """Beside the workspace a step takes little: nothing as large as its rows of gates, let alone
    the gradients.
    """
    data, noting = draw_data(256, 64, 2000, seed=1), Noting()
    model = CaptioningRNN(data.vocabulary.word_to_idx, 64, 64, 128, "lstm", np.float32, seed=0)
    how: dict[str, Any] = {"update_rule": "adam", "clip_norm": 5.0, "seed": 0, "verbose": False}
    solver = CaptioningSolver(model, data, batch_size=128, objective=noting, **how)
    batches = [data.minibatch("train", np.arange(128) + 128 * k) for k in range(2)]
    for batch in batches:
        solver.step(*batch)
    tracemalloc.start()
    try:
        for batch in batches:
            solver.step(*batch)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for batch in batches:
            solver.step(*batch)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    rows = np.count_nonzero(batches[0][1][:, 1:]) * 4 * 128 * 4  # bytes of (R, 4H)
    assert noting.workspace.nbytes > 5 * rows
    assert peak - before < rows / 2
    assert after - before < 100_000


# Sampling in parts


def test_a_sampler_that_lays_out_matrices_sees_parameters_that_have_changed() -> None:
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{i}": i for i in range(3, 90)}}
    model, other = (CaptioningRNN(words, 7, 6, 32, "lstm", np.float64, seed=k) for k in (0, 1))
    features = np.random.default_rng(0).standard_normal((5, 7))
    before = model.sample(features, 9)
    for name in ("W_vocab", "Wh", "Wx"):
        model.params[name][...] *= -3
    captions = model.sample(features, 9)
    assert (captions != before).any()
    other.params.flat[...] = model.params.flat
    np.testing.assert_array_equal(other.sample(features, 9), captions)


def test_cells_that_share_a_scope_multiply_each_by_its_own_matrix(rng: np.random.Generator) -> None:
    matrices, a = rng.standard_normal((2, 32, 128)), rng.standard_normal((5, 128))
    shared, state = Workspace(a), tuple(rng.standard_normal((2, 5, 32)))
    for Wh in (*matrices, *matrices):
        after = [
            LSTM.advance(a.copy(), state, LSTM.laid_out({"Wh": Wh}, memory), memory)
            for memory in (shared, Workspace.fresh(a))
        ]
        np.testing.assert_array_equal(*after)


def said_by_steps(model: CaptioningRNN, features: np.ndarray, forbid: list[int]) -> np.ndarray:
    """Captions (N, 12) of a loop of model.step: whole batch, every step, no table, no rows dropped."""
    words, end = np.full(len(features), model.word_to_idx["<START>"]), model.word_to_idx["<END>"]
    captions = np.full((len(features), 12), model.word_to_idx["<NULL>"])
    state, ended = model.start(features), np.zeros(len(features), bool)
    for t in range(12):
        scores, state = model.step(words, state)
        scores[:, forbid] = -np.inf
        words = scores.argmax(axis=1)
        captions[~ended, t] = words[~ended]
        ended |= words == end
    return captions


@CELLS
@pytest.mark.usefixtures("new_cells")
@pytest.mark.parametrize("inject", ["init", "attention"])
def test_captions_in_parts_and_by_the_word_table_are_those_of_model_step(
    cell: str, inject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MIN_HYPOTHESES_PER_CORE", 8)
    monkeypatch.setattr(decode, "cores", lambda: 3)
    model = make(cell, inject=inject)
    null, start, end = (model.word_to_idx[word] for word in ("<NULL>", "<START>", "<END>"))
    for seed in range(20):  # until captions end at several steps
        rng = np.random.default_rng(seed)
        for name, value in model.params.items():
            model.params[name] = rng.standard_normal(value.shape)
        model.params["W_vocab"][:, end] *= 2
        model.params["W_embed"][...] *= 3
        model.params["b_vocab"][end] += 3
        features = rng.standard_normal((50, *model.config.feature_shape))
        expected = said_by_steps(model, features, [null, start])
        captions, probabilities = model.sample_with_probabilities(
            features, 12, forbid=[null, start]
        )
        np.testing.assert_array_equal(captions, expected)
        if len(np.unique((expected == null).sum(axis=1))) > 3:
            break
    else:
        pytest.fail("captions of none of 20 models end at four steps")
    before_end = np.cumsum(expected == end, axis=1) - (expected == end) == 0
    assert ((probabilities > 0) == before_end).all()
    np.testing.assert_array_equal(model.sample(features, 12, forbid=[null, start]), expected)


# Threads of one program that compute with xpcap

PROGRAM = Path(__file__).parents[1] / "helpers" / "threads.py"
# of `make test`; from 3.8 on only the thread that set a limit first may set another
FORMER = Path(sys.prefix) / "threadpoolctl-3.7"


def run(argument: str, former: bool = False) -> dict[str, Any]:
    if cores() < 2:
        pytest.skip("BLAS has one thread here: there is nothing to share")
    if former and not FORMER.is_dir():
        pytest.skip("threadpoolctl 3.7 is not beside the installed one, as `make test` puts it")
    code = PROGRAM.read_text(encoding="utf-8")
    found = json.loads(program(code, argument, flags=(), paths=[FORMER] * former).stdout)
    assert found["version"].startswith("3.7" if former else "")
    return found


@pytest.mark.parametrize(("argument", "former"), [("owned", False), ("", True)])
@pytest.mark.slow
def test_any_thread_has_the_bits_of_main_also_beside_another_and_blas_keeps_its_threads(
    argument: str, former: bool
) -> None:
    found = run(argument, former)
    alone = found["main"]
    assert found["thread"] == alone
    assert found["beside"] == {
        f"{name} in {where}": bits for name, bits in alone.items() for where in ("main", "thread")
    }
    assert found["after"] == found["threads"]


@pytest.mark.slow
def test_bits_do_not_depend_on_whether_numpy_or_xpcap_is_imported_first() -> None:
    assert run("first")["main"] == run("alone")["main"]
