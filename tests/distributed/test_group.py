"""Training on several ranks: the same model as on one, the same bits on each, and a word where that
would not be so.
"""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated import install_or_skip, nccl
from ranks import Rank, together
from refusals import refuses

pytest.importorskip("PIL")  # generated pictures

import xpcap
from xpcap import CaptioningRNN, CaptioningSolver, to_numpy
from xpcap.cli import shared
from xpcap.data.features import FeatureScaling
from xpcap.distributed import SINGLE, Group, launcher
from xpcap.distributed.mpi import NCCL, MPIGroup, Staged, device_sum
from xpcap.distributed.work import work
from xpcap.drawings import generate
from xpcap.errors import BackendError, GroupError, OptionError, TrainingError
from xpcap.models.batch import Batch
from xpcap.training import CrossEntropy, losses

MADE = generate(seed=3, train=41, val=13)  # 205 captions
TRAIN = MADE.split("train")
VIEWS = replace(TRAIN, features=np.concatenate([TRAIN.features, TRAIN.features[:, ::-1]]), views=2)
DATA = replace(MADE, splits={**MADE.splits, "train": VIEWS}, scaling=FeatureScaling())
GRIDS = replace(
    DATA,
    splits={
        name: replace(split, features=split.features.reshape(-1, 11, 191))
        for name, split in DATA.splits.items()
    },
)


def solver(
    group: Group,
    dtype: Any = np.float32,
    cell: str = "lstm",
    inject: str = "every-step",
    **options: Any,
) -> CaptioningSolver:
    data = GRIDS if "attention" in inject else DATA
    size = data.feature_shape if "attention" in inject else data.feature_dim
    model = CaptioningRNN(
        data.vocabulary.word_to_idx, size, 12, 16, cell, dtype, dropout=0.3, inject=inject, seed=1
    )
    usual = {
        "batch_size": 17,
        "num_epochs": 1,
        "update_rule": "adam",
        "optim_config": {"learning_rate": 1e-2},
        "lr_decay": "linear",
        "select": "cider",
        "clip_norm": 5.0,
        "seed": 2,
    }
    return CaptioningSolver(model, data, verbose=False, group=group, **{**usual, **options})


def trained(group: Group, **options: Any) -> CaptioningSolver:
    made = solver(group, **options)
    made.train()
    return made


@pytest.mark.parametrize(
    ("dtype", "cell", "inject", "size", "tolerance"),
    [
        (np.float32, "lstm", "every-step", 4, 1e-5),
        (np.float64, "gru", "every-step", 2, 1e-12),
        (np.float64, "lstm", "attention", 3, 1e-12),
    ],
)
def test_ranks_train_the_model_that_one_process_trains(
    dtype: Any, cell: str, inject: str, size: int, tolerance: float
) -> None:
    """26 steps with dropout, mirror images and captions of different lengths; the last batch of an
    epoch is a single caption.
    """
    how = {"dtype": dtype, "cell": cell, "inject": inject, "num_epochs": 2}
    alone = trained(SINGLE, **how)
    assert alone.iteration == 26
    assert len(alone.data.split("train").captions) % alone.batch_size == 1
    ranks = together(size, lambda group: trained(group, **how))
    for rank in ranks:
        assert np.array_equal(rank.model.params.flat, ranks[0].model.params.flat)
        assert np.array_equal(rank.best_params.flat, ranks[0].best_params.flat)
        assert rank.history == ranks[0].history
    np.testing.assert_allclose(
        ranks[0].model.params.flat, alone.model.params.flat, rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(ranks[0].loss_history, alone.loss_history, rtol=100 * tolerance)
    for ours, theirs in zip(ranks[0].history, alone.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_ranks_draw_the_same_captions_with_replacement_and_need_a_seed() -> None:
    alone = trained(SINGLE, replacement=True)
    for rank in together(3, lambda group: trained(group, replacement=True)):
        np.testing.assert_allclose(rank.loss_history, alone.loss_history, rtol=1e-3)
    with refuses(OptionError, "`seed`", "is None for 3 ranks", "a whole number"):
        together(3, lambda group: solver(group, seed=None))


@pytest.mark.parametrize("array", [np.ones((2000, 4))[:, :2], np.ones((40, 50)).T])
def test_a_sum_wants_a_contiguous_array(array: np.ndarray) -> None:
    group = object.__new__(MPIGroup)  # what it wants of MPI comes after the check
    with refuses(ValueError, "the array", "is not contiguous"):
        group.all_reduce(array)


class OnDevice(Rank):
    """A rank whose arrays lie on an emulated device, in a machine of its own or one that all
    share.
    """

    def __init__(self, rank: Rank, alone: bool) -> None:
        super().__init__(rank.meeting, rank.rank, rank.size)
        self.hosts = [f"machine {k if alone else 0}" for k in range(rank.size)]
        self.way: Any = None

    def all_reduce(self, flat: Any) -> None:
        if isinstance(flat, np.ndarray):
            super().all_reduce(flat)
            return
        self.way = self.way or device_sum(self, flat)
        self.way.all_reduce(flat)

    all_reduce_on_host = Rank.all_reduce


@pytest.mark.slow
def test_ranks_train_on_devices_what_one_process_trains(
    device: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By NCCL, through the host where two ranks share a device, and where one lacks the library,
    which is named then. Threads stand for ranks.
    """
    few: dict[str, Any] = {"batch_size": 100, "select": "loss"}  # steps of 100, 100, 5 captions
    with xpcap.use_backend("cupy"):
        expected = trained(SINGLE, **few)
    for way, alone, library in ((NCCL, True, True), (Staged, False, True), (Staged, True, False)):
        monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", nccl.namespace(library))
        monkeypatch.setattr(sys.modules["cupy"].cuda, "nccl", nccl.namespace(library))
        made: list[OnDevice] = []

        def work(group: Any, alone: bool = alone, made: list[OnDevice] = made) -> CaptioningSolver:
            made.append(OnDevice(group, alone))
            return trained(made[-1], **few)

        with xpcap.use_backend("cupy"):
            ranks = together(2, work)
        assert [type(rank.way) for rank in made] == [way, way]
        named = "rank 0 has no NCCL; pip install nvidia-nccl-cu13 installs it\n"
        assert capsys.readouterr().err.count(named) == (0 if library else 1)
        for rank in ranks:
            ours, theirs = (to_numpy(one.model.params.flat) for one in (rank, expected))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
            assert rank.loss_history == pytest.approx(expected.loss_history, rel=1e-4)


class Watched(Group):
    """A group that knows how this process is waiting for others: "call", "read", or not at all."""

    how = ""

    @contextlib.contextmanager
    def waiting(self, *, call: bool = True) -> Iterator[None]:
        self.how = "call" if call else "read"
        yield
        self.how = ""


def test_the_watchdog_watches_while_nccl_connects_ranks() -> None:
    seen: list[str] = []
    group: Any = Watched()
    library: Any = SimpleNamespace(
        NCCL_FLOAT32=7,
        NCCL_FLOAT64=8,
        get_unique_id=lambda: b"id",
        NcclCommunicator=lambda *_: seen.append(group.how),
    )
    NCCL(library, group, np)
    assert seen == ["call"]


def test_the_watchdog_watches_while_losses_are_read_and_counts_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 0 alone reads them to print and to save: a count of reads would accuse the others."""
    seen: list[str] = []
    group = Watched()

    def to_host(array: Any) -> np.ndarray:
        seen.append(group.how)
        return to_numpy(array)

    monkeypatch.setattr(losses, "to_numpy", to_host)
    made = solver(group)
    made.train()
    made.restore(made.state())
    made.train()
    assert seen == ["read", "read"]


def test_every_caption_of_a_batch_is_one_ranks_and_no_rank_reads_the_features_of_others() -> None:
    seen: list[list[Batch]] = [[], [], []]

    def objective_of(rank: int) -> Any:
        def objective(model: Any, batch: Batch, workspace: Any) -> Any:
            seen[rank].append(batch)
            return CrossEntropy().loss(model, batch, workspace)

        return objective

    together(3, lambda group: trained(group, objective=objective_of(group.rank)))
    for shares in zip(*seen, strict=True):
        N = len(shares[0].captions)
        mine = [share.shard for share in shares]
        assert sorted(np.concatenate(mine)) == list(range(N))
        assert [len(share.features) for share in shares] == [len(numbers) for numbers in mine]
        words = [
            int((share.captions[share.shard] != DATA.vocabulary.null).sum()) for share in shares
        ]
        assert max(words) - min(words) <= shares[0].captions.shape[1]  # a caption at most


def test_a_rank_whose_parameters_differ_is_named() -> None:
    def work(group: Group) -> None:
        made = solver(group)
        if group.rank == 1:
            made.model.params.flat[7] += np.float32(1e-6)
        made.train()

    with refuses(TrainingError, "after epoch 1 rank 1", "has other parameters than rank 0"):
        together(3, work)


def test_a_step_that_is_not_finite_on_one_rank_ends_all() -> None:
    ended: list[int] = []

    def work(group: Group) -> None:
        def objective(model: Any, batch: Batch, workspace: Any) -> Any:
            loss, grads = CrossEntropy().loss(model, batch, workspace)
            return loss + np.float32("inf") if group.rank == 1 and batch.step == 3 else loss, grads

        made = solver(group, objective=objective)
        with refuses(TrainingError, "iteration 4 has loss inf"):
            made.train()
        ended.append(group.rank)

    together(2, work)
    assert sorted(ended) == [0, 1]


def test_more_ranks_than_captions_in_a_batch_are_refused() -> None:
    with refuses(OptionError, "`batch_size`", "is 17 for 18 ranks"):
        solver(Rank(None, 0, 18))  # type: ignore[arg-type]  # never meets the others


def test_all_ranks_get_equally_many_batches_of_their_shares() -> None:
    for n in (0, 1, 5, 12, 13):
        groups = [Rank(None, rank, 4) for rank in range(4)]  # type: ignore[arg-type]
        found = [list(group.batches(n, 2)) for group in groups]
        assert len({len(share) for share in found}) == 1
        assert [i for share in found for batch in share for i in range(n)[batch]] == list(range(n))
    assert list(SINGLE.batches(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_gradients_of_shares_add_up_with_weights_and_without_captions() -> None:
    model = solver(SINGLE, np.float64).model
    rng = np.random.default_rng(0)
    captions, weights = TRAIN.captions[:6], rng.random(6)
    features = rng.standard_normal((6, DATA.feature_dim))
    loss, grads = model.loss(features, captions, weights=weights, step=3)
    total, sums = 0.0, np.zeros_like(grads.flat)
    for mine in (np.array([4, 1]), np.array([], np.int64), np.array([0, 2, 3, 5])):
        share, parts = model.loss(features[mine], captions, weights=weights, step=3, shard=mine)
        total, sums = total + float(share), sums + parts.flat
    assert total == pytest.approx(float(loss), rel=1e-12)
    np.testing.assert_allclose(sums, to_numpy(grads.flat), rtol=0, atol=1e-13)
    for bad in (np.array([0, 6]), np.array([1, 1])):
        with refuses(ValueError, "distinct numbers of 6 captions"):
            model.loss(features[:2], captions, shard=bad)


def told_to(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher, "init", functools.cache(launcher.init.__wrapped__))


def test_one_process_imports_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from xpcap.cli import main; from xpcap.distributed import SINGLE, init;"
        " sys.exit(init() is not SINGLE or 'mpi4py' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    for name, value in (
        ("PMI_SIZE", "1"),
        ("SLURM_STEP_NUM_TASKS", "4"),
    ):  # a rank is told too by whoever starts several
        told_to(monkeypatch, **{name: value})
        assert launcher.init() is SINGLE


def test_several_processes_without_mpi4py_or_with_another_mpi_are_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_to(monkeypatch, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    monkeypatch.setattr(launcher.importlib.util, "find_spec", lambda name: None)
    with refuses(
        GroupError,
        "a launcher",
        "started 2 processes, and mpi4py is not installed",
        "pip install 'mpi4py>=4.1' 'mpich>=4.3'",
    ):
        launcher.init()
    monkeypatch.undo()
    pytest.importorskip("mpi4py")
    environment = {**os.environ, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    line = [sys.executable, "-c", "from xpcap.cli import main; main()", "info"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the launcher started 2 processes, and mpi4py's MPI," in done.stderr
    assert "use the mpiexec of the MPI that mpi4py loads" in done.stderr


def test_a_rank_without_a_gpu_of_its_own_is_told_so(device: Any) -> None:
    """The emulated machine has one device, and two ranks want one each."""
    group = Rank(None, 1, 2)  # type: ignore[arg-type]  # never meets the others
    group.local_rank = 1
    with work(group=group):
        with refuses(
            BackendError,
            "rank 1",
            "is number 1 on its machine and needs GPU 1:",
            "start as many ranks",
        ):
            shared.choose_backend("cupy")
        group.local_rank = 0
        shared.choose_backend("cupy")
    assert xpcap.get_backend() == "cupy"
    xpcap.use_backend("numpy")


def test_auto_proves_the_device_of_the_rank_and_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Device 0 belongs to rank 0, which has it to itself."""
    device = install_or_skip(monkeypatch, devices=2, busy=(0,))
    group = Rank(None, 1, 2)  # type: ignore[arg-type]  # never meets the others
    group.local_rank = 1
    with work(group=group):
        shared.choose_backend("auto")
    assert xpcap.get_backend() == "cupy:1"
    assert device.contexts == {1}
    xpcap.use_backend("numpy")
