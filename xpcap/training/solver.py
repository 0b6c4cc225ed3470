"""CaptioningSolver: the training loop. Start with `_train_epoch`, `_train_batch` and `_step`.

A step on a device
------------------
The host launches kernels and products, which the device computes in order, and does not wait.

Every step:

1. `step` makes a `Batch` of features and captions, and the objective passes it to
   `CaptioningRNN.loss` with the solver's `Workspace`, whose memory is reused from step to step.
2. `DeviceNetwork` packs the batch: captions are sorted by length, and their rows, time step by time
   step, are padded to the workspace's `Layout`, so that nearly all batches have the same shapes. All
   index arrays are uploaded in one transfer (`Staging`), and `draw_masks` launches dropout masks.
3. `DeviceNetwork.gradients` calls `Replay.run`, which repeats the launches of the recorded step.
   The host makes no decision again: only the uploaded arrays differ.
4. `Group.all_reduce` sums the gradients of several ranks, `clip_by_global_norm` scales them, and
   `Optimizer.update` changes the parameters. These launches, like those of masks, are made anew,
   because their arguments include the number of the step and the learning rate.
5. `step` returns the loss. In `train`, `LossBuffer.add` keeps it on the device until losses are
   printed or saved.

A step is recorded when parameters, features, config or terms of the loss are not the previous ones:

1. `Replay.run` calls `Network.forward`, `vocabulary_loss` and `Network.backward`. They get their
   operations, methods of `DeviceOps`, from `get_ops`, and arrays from the workspace.
2. A method calls `Kernels.launch`, which checks the arguments of a kernel in ops/cuda and launches
   it, or `multiply`, which calls cuBLAS. Both add their calls to the record.

`Kernels` compile at their first use (`warm_up`). `BatchLoader` uploads the features of a data set,
and `DeviceNetwork` those given to a step. Sampling, validation, batches that do not fit the layout
or have more than `MAX_PADDED` captions, and cells without kernels also use `DeviceOps`, but are not
recorded.

Before the first step `_check_device` compares this fast code with the plain code (way.py), unless
this machine has done so before. In plain code nothing is padded or recorded: `get_ops` returns
`Ops`, and CuPy computes.

The host waits where it reads a result: a loss (`LossBuffer`), or captions that self-critical
training samples or that are given on the device; for the oldest upload, when `AHEAD` uploads are
pending (`Staging`); and in all-reduces through its memory.
"""

import contextlib
import copy
import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, fields
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from xpcap import optim
from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.plain_code import check_code, current_code, plain
from xpcap.backend.selfcheck import Results, checked_code
from xpcap.backend.shape_specs import as_array, as_numbers
from xpcap.backend.threads import cores, one_blas_thread
from xpcap.data.cs231n import from_coco
from xpcap.data.dataset import CaptionData, check_data
from xpcap.data.loader import BatchLoader
from xpcap.data.vocabulary import Vocabulary
from xpcap.distributed import SINGLE, Group
from xpcap.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    OptionError,
    TrainingError,
    one_of,
)
from xpcap.models.batch import Batch, FeatureRows, caption_lengths, deal
from xpcap.models.device_batch import DeviceWorkspace, Layout
from xpcap.models.network import GRADIENTS
from xpcap.models.parameters import Parameters
from xpcap.ops import get_ops
from xpcap.ops.random import draw_views
from xpcap.optim import UpdateRule
from xpcap.options import Flag, Names, Real, Whole, described, option
from xpcap.progress import BAR_SECONDS, Pace, bar, say
from xpcap.training.evaluate import SELECT, EpochEvaluator, accuracy
from xpcap.training.losses import LossBuffer
from xpcap.training.objectives import Objective, as_objective, figures_of, loss_and_gradients
from xpcap.training.optimizer import DECAY, Optimizer
from xpcap.training.state import (
    LATEST,
    LIMIT,
    EpochOrder,
    Record,
    TrainingState,
    best_of,
    epochs_of,
    is_start,
)
from xpcap.training.trial import trial_batch, trial_step
from xpcap.training.watcher import Watcher, checked_watchers

# A device pads batches of at most so many captions. Larger batches are estimated to take the device
# longer than the host takes to launch them. Not yet timed on a GPU
MAX_PADDED = 512


@dataclass
class TrainCall:
    """A call of `train`, for `num_epochs` epochs.

    first_epoch : epochs done when it began; below 0 if `num_epochs` is raised after the last epoch
    stopped : reason to end early, from `stop`
    report_due : an epoch is recorded, but not all watchers have been called
    """

    first_epoch: int = 0
    stopped: str | None = None
    report_due: bool = False


@dataclass(eq=False, repr=False)
class CaptioningSolver:
    """The training loop: CS231n's class, with validation and best parameters.

    An epoch visits every training caption once, in a random order, unless `replacement` is set.

    Parameters
    ----------
    model : CaptioningRNN
        Or an object with `params` (a Parameters), `score`, and the methods that the objective
        needs.
    data : CaptionData, or dict
        A dict as load_coco_data returns it.
    update_rule : str or UpdateRule
        "sgd", "sgd_momentum", "rmsprop", "adam", or a custom rule.
    optim_config : mapping or None
        Hyperparameters of the rule, as in xpcap.optim.
    lr_decay : float or "linear"
        Factor on the learning rate after each epoch of `train`; "linear": the rate falls with every
        step, to zero after the last epoch.
    select : str
        Epoch to keep: "loss", with the lowest validation loss; "cider", with the highest CIDEr-D of
        greedy captions of the val split; "last", the last one, for a val split that is too small to
        decide. Without a val split "loss" is "last".
    batch_size : int
        N, captions in a batch; the last batch of an epoch may be smaller.
    num_epochs : int
        Epochs of a call of `train`; may be set for the next one.
    replacement : bool
        Draw each batch from all captions with replacement, as the course's solver does, in ``max(n
        // batch_size, 1)`` steps per epoch. Without a `seed` the draws come from NumPy's legacy
        global stream, so the same `np.random.seed` gives the course's batches.
    print_every : int
        Steps from one printed loss to the next.
    verbose : bool
        Print losses.
    clip_norm : float or None
        Largest global norm of a gradient. None: no clipping. The loss is summed over time, so 5 for
        a loss per word is about 55 here.
    seed : int or None
        Seed of the caption order. None draws it from NumPy's legacy global stream, which needs a
        single process. Dropout masks come from `model.seed` and the number of the step.
    patience : int or None
        Stop after so many epochs in a row without improvement on the val split. None: never.
    progress : bool or None
        Show a progress bar if standard error is a terminal. None: as the current work does.
    watchers : iterable of Watcher
        Called when training begins, and at steps and epochs. An exception from one ends training;
        `train`, or a saved state, continues from there.
    objective : Objective, callable or None
        A function of (model, batch, workspace) that returns loss and gradients, or an Objective.
        None: cross entropy.
    group : Group
        The ranks that train together; each computes its shard of every batch. SINGLE: this process
        alone.

    Attributes
    ----------
    loss_history : list of float
        The loss of each iteration; a copy.
    history : list of dict
        A record per epoch: epoch, iteration, learning_rate, train_loss or train_reward, and
        train_accuracy; with a val split val_loss, val_perplexity, val_accuracy and, unless
        `select` is "loss", val_cider, val_distinct, val_length; latest, if `select` is "last". A
        copy, as are `times` and `start`.
    times : list of dict
        A record per epoch trained here: epoch, steps, train_seconds, check_seconds.
    way : str
        "fast" or "plain" code, as in force in the thread that made the solver: see `xpcap.plain`.
        Later steps must be taken with the same. On a device the first step, or `warm_up`, checks
        the fast code; if it is wrong, the solver uses plain code from then on, and says so.
    start : dict or None
        Record of the parameters that training starts from, if `score_start` scored them.
    best_params : Parameters, or empty dict
        A copy of the parameters of the best record; empty before the first. The model continues
        from the latest parameters.
    learning_rate : float
        Rate of the next step; may be set.
    lr_decay : float or "linear"
        May be set, as may `num_epochs`, `clip_norm`, `patience`, `print_every`, `verbose` and
        `progress`.

    Raises
    ------
    OptionError
        A rule or hyperparameter is unknown, a value is bad, or an option needs a val split which
        the data lacks.
    DataError
        The data is inconsistent, or model and data give a word different ids.
    TypeError
        The model's parameters are no Parameters, or the objective's captions no integers.
    ValueError
        The objective visits no caption, or one that does not exist.

    Examples
    --------
    >>> from xpcap import CaptioningRNN, CaptioningSolver
    >>> from xpcap.drawings import generate
    >>> data = generate(seed=0, train=20, val=5)
    >>> model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 8, 16, seed=0)
    >>> solver = CaptioningSolver(model, data, num_epochs=2, seed=0, verbose=False)
    >>> solver.train()
    >>> [record["epoch"] for record in solver.history]
    [1, 2]
    """

    model: Any
    data: Any  # a CaptionData, once the solver is made
    _: KW_ONLY
    update_rule: str | UpdateRule = "sgd"
    optim_config: Mapping[str, Any] | None = None
    lr_decay: float | str = option(DECAY, 1.0)
    select: str = option(Names(SELECT), "loss")
    batch_size: int = option(Whole(1), 100)
    num_epochs: int = option(Whole(1), 10)
    replacement: bool = option(Flag(), False)
    print_every: int = option(Whole(1), 10)
    verbose: bool = option(Flag(), True)
    clip_norm: float | None = option(Real(above=0), None)
    seed: int | None = option(Whole(0), None)
    patience: int | None = option(Whole(1), None)
    progress: bool | None = option(Flag(), None)
    watchers: Iterable[Watcher] = ()
    objective: Any = None  # an Objective, once the solver is made
    group: Group = SINGLE

    _built = False  # a class attribute, not a field: True once the parts are made

    def __post_init__(self) -> None:
        if isinstance(self.data, CaptionData):
            check_data("the data", self.data, start=False)
        else:
            self.data = from_coco(self.data)
        self.optim_config = MappingProxyType(dict(self.optim_config or {}))
        self.objective = as_objective(self.objective)
        self.watchers = checked_watchers("CaptioningSolver", self.watchers)
        _check_model(self.model, self.data.vocabulary)
        _check_choice(self.select, self.patience, self.data)
        _check_group(self.group, self.objective, self.seed, self.batch_size)

        self._records: list[Record] = []  # of the start, if it was scored, then of the epochs
        self._times: list[Record] = []
        self.best_params: Parameters | dict[str, Array] = {}
        self._steps = 0  # steps taken, recorded or not
        self._call = TrainCall()

        self.code = current_code()
        self._is_checked = False
        self._falls_back = False
        flat = self.model.params.flat
        self._on_host = get_array_module(flat) is np
        self._captions = _epoch_captions(self.objective, self.data)
        self._order = EpochOrder(len(self._captions), self.seed, self.replacement)
        self._loader = BatchLoader(self.data, flat)
        self._record = LossBuffer(flat, self.steps_per_epoch, group=self.group)
        self._evaluate = EpochEvaluator(self.data, self._loader, self.select, self.group)
        self._optimizer = Optimizer(self.update_rule, self.optim_config, self.model.params)
        if self._on_host:
            self._workspace = Workspace(flat, cores())
        else:
            waiting = functools.partial(self.group.waiting, call=False)  # each rank uploads alone
            self._workspace = DeviceWorkspace(flat, self._layout(), waiting=waiting)
        if (memory := self.group.sum_buffer(flat)) is not None:
            self._workspace.hold(GRADIENTS, memory)  # the group sums gradients in it fastest
        self._pace = Pace(BAR_SECONDS)  # how often losses are read for the progress bar
        self._built = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the value of an option is checked by its kind.

        OptionError : the value is bad, the attribute is fixed at construction, or it does not
        exist. A subclass may add attributes.
        """
        if self._built and type(self) is CaptioningSolver and not hasattr(self, name):
            raise OptionError(
                f"attribute {name!r} does not exist, expected {one_of(SETTABLE, name)}"
            )
        if self._built and name in BUILT_IN:
            raise OptionError(
                f"`{name}` is fixed at construction, expected a new solver:"
                f" dataclasses.replace(solver, {name}=...)"
            )
        if name in OPTIONS:
            value = OPTIONS[name].check(f"`{name}`", value)
        if self._built and name == "patience":
            _check_choice(self.select, value, self.data)
        if self._built and name == "num_epochs" and self.epoch >= self._last_epoch:
            self._call.first_epoch = self.epoch - value  # `train` then trains `value` more
        super().__setattr__(name, value)

    def train(self) -> None:
        """Train for `num_epochs` epochs, or until `patience` epochs bring no improvement.

        Called again, it continues: after an interrupt or `stop` with the remaining epochs, after
        `patience` until an epoch brings no improvement, otherwise for `num_epochs` more. An
        interrupt may come anywhere; during the update of the parameters it can apply a batch twice.

        Raises
        ------
        TrainingError
            A loss or gradient is not finite. The host notices at once, a device when losses are
            read: to print, to save, and before an epoch is recorded. Best parameters and history
            are those of the earlier epochs.
        BackendError
            As in `warm_up`.
        """
        self._call.stopped = None
        self._check_device()
        try:
            with self._computing():
                self._train()
        except TrainingError:
            self._order.end()  # after the caller has repaired the model, a new epoch begins
            raise

    def _train(self) -> None:
        was_finished = self.finished
        for watcher in self.watchers:
            watcher.begin(self)
        if self._call.report_due:
            self._report_epoch()
        elif was_finished:
            self._call.first_epoch = self.epoch
            self._optimizer.begin_again(self.lr_decay)
            self._train_epoch()
        while not self.finished:
            self._train_epoch()

    def stop(self, why: str) -> None:
        """Let `train` end after the current epoch; for watchers.

        Parameters
        ----------
        why : str
            The reason, which `ending` then has.
        """
        self._call.stopped = why

    def score_start(self, epoch: int = 0) -> None:
        """Score the model. Its parameters count as the best until an epoch is better.

        Parameters
        ----------
        epoch : int
            Epochs that were trained before, perhaps with another objective; those of `train` are
            numbered from there.

        Raises
        ------
        OptionError
            `epoch` is no number of epochs.
        ValueError
            A step has been taken already.
        """
        epoch = Whole(0).check("`epoch`", epoch)
        if self.iteration:
            raise InvalidValueError(
                f"the solver is at iteration {self.iteration}, expected 0: score it before training"
            )
        with self._computing():
            figures = self._evaluate(self._scored, between=lambda: None)
        self._records = [{"epoch": epoch, "iteration": 0, **figures}]
        self._call.first_epoch = epoch
        self.best_params = self._scored.params.copy()

    def require_gain(self, share: float) -> None:
        """Require an epoch to lower the validation loss, too, to count as better than the start.

        CIDEr-D of few pictures is too noisy to decide alone.

        Parameters
        ----------
        share : float
            Share of the current validation loss by which an epoch must lower it, from 0 to below 1.

        Raises
        ------
        OptionError
            The share is out of range.
        ValueError
            The start was not scored, or there is no val split.
        """
        share = Real(0, below=1).check("share", share)
        if "val_loss" not in (self.start or {}):
            raise InvalidValueError(
                "the start has no validation loss, expected one to compare epochs with; call"
                " score_start first, with a val split"
            )
        with self._computing():
            loss = self._evaluate.validation(self._scored, between=lambda: None).loss
        self._records[0][LIMIT] = (1 - share) * loss

    def _train_epoch(self) -> None:
        """Train an epoch, or the rest of an interrupted one, and record it."""
        start = time.perf_counter()
        batches = self._order.batches(self.batch_size)
        first = self._order.position
        title = f"epoch {self.epoch + 1}/{self._last_epoch}"
        with bar(batches, title, self.steps_per_epoch, first, shown=self.progress) as shown:
            for positions in shown:
                self._train_batch(positions)
                epochs_left = self._last_epoch - self.epoch
                position = self._order.position
                steps_left = epochs_left * self.steps_per_epoch - position  # this one included
                self._optimizer.end_step(self.lr_decay, steps_left)
                self._order.position += 1
                self._show_loss(shown)
                self._tell_step()
        trained = time.perf_counter()
        record = self._evaluate_epoch()
        times = {"epoch": record["epoch"], "steps": self._order.position - first}
        if self.group.size > 1:
            times["ranks"] = self.group.size
        times |= {"train_seconds": trained - start, "check_seconds": time.perf_counter() - trained}
        if best_of([*self._records, record]) is record:
            self.best_params = self._scored.params.copy()
        self._times.append(times)
        self._records.append(record)
        self._optimizer.end_epoch(self.lr_decay)
        self._order.end()
        self._call.report_due = True
        self._report_epoch()

    def train_batch(self, positions: np.ndarray) -> None:
        """Take a recorded training step outside the order of an epoch.

        In an interrupted epoch, its loss enters the epoch's mean loss. The learning rate does not
        change: only `train` lowers it, finally to 0 if `lr_decay` is linear. At that rate a step
        changes nothing until another rate is set.

        Parameters
        ----------
        positions : array (N,), int
            Positions of captions in the objective's list.

        Raises
        ------
        TypeError
            The positions are no integers.
        ValueError
            A position does not exist.
        """
        count = len(self._captions)
        positions = as_numbers("positions", positions, count, "")
        self._check_device()
        with self._computing():
            self._train_batch(positions)

    def _train_batch(self, positions: np.ndarray) -> None:
        """`train_batch` without a check of positions."""
        split = self._loader.split("train")
        captions = self._captions[positions]
        seed = getattr(self.model, "seed", 0)
        views = draw_views(len(captions), split.views, seed, self._steps)
        shard = None if self.group.size == 1 else self._shard(split.captions[captions])
        batch = self._loader.minibatch("train", captions, views, shard)
        loss, norm = self._step(batch, require_finite=self._on_host)
        self._record.add(loss, norm)

    def _shard(self, captions: np.ndarray) -> np.ndarray:
        """Numbers of this rank's captions in a batch (N, T+1), dealt so that ranks do equal work."""
        lengths = caption_lengths(captions, self.data.vocabulary.null)
        return deal(lengths, self.group.size)[self.group.rank]

    def _layout(self) -> Layout | None:
        """Layout of this rank's full batches; None in plain code, on the host, and for batches that
        are too large to pay off.
        """
        n = len(range(self.group.rank, self.batch_size, self.group.size))
        if self._on_host or self.code == "plain" or not 0 < n <= len(self._captions):
            return None
        captions = self.data.split("train").captions[self._captions]
        layout = self.objective.layout(captions, self.data.vocabulary.null, n)
        return layout if layout.sizes[0] <= MAX_PADDED else None

    @one_blas_thread()
    def _step(self, batch: Batch, require_finite: bool = False) -> tuple[Array, Array]:
        """Take a training step; return loss and gradient norm before clipping, both 0-d."""
        params = self.model.params
        batch = batch._replace(step=self._steps)
        loss, grads = loss_and_gradients(self.objective, self.model, batch, self._workspace)
        loss = _all_reduce(self.group, loss, grads)
        norm = self._clip(grads, self._workspace.scope("solver"))
        if require_finite and not (np.isfinite(loss) and np.isfinite(norm)):
            raise self._record.explain(loss, norm, params, grads, self.learning_rate)
        self._optimizer.update(params, grads)
        self._steps += 1
        return loss, norm

    def _clip(self, grads: Parameters, memory: Workspace) -> Array:
        """Clip the gradients in place; return their norm before, 0-d."""
        if self.clip_norm is None:
            return get_ops(grads.flat).global_norm(grads.flat, memory)
        return optim.clip_by_global_norm(grads.flat, self.clip_norm, memory=memory)

    def step(self, features: Array | FeatureRows, captions: Array) -> Array:
        """Take a training step on a given minibatch, without recording it.

        The learning rate does not change, as in `train_batch`. Nothing is read from a device except
        captions that are given there. Each rank computes its share of the batch.

        Parameters
        ----------
        features : array (N, D), with attention (N, P, D), or FeatureRows
            Features on the host or a device, already scaled; the same on every rank.
        captions : array (N, T+1), int
            The same on every rank.

        Returns
        -------
        loss : array (), float
            Array of the model's library; reading it waits for the device.

        Raises
        ------
        TrainingError
            On the host, the loss or a gradient is not finite; nothing has changed. On a device such
            a loss is returned.
        """
        batch = Batch(features, captions)
        if self.group.size > 1:
            captions = to_numpy(as_array("captions", captions))
            batch = batch._replace(captions=captions).shared(self._shard(captions))
        self._check_device()
        with self._computing():
            loss, _ = self._step(batch, require_finite=self._on_host)
        return loss.copy()  # on a device the next step overwrites the original

    # ---- Plain and fast code on a device

    def warm_up(self) -> None:
        """Run a step and validation on a device once, with a copy of the model.

        This compiles kernels before a step is timed and, on a device that has not done such work
        before, checks them against the plain equations; see `way`. Parameters, moments, the order
        of captions and random streams do not change. On the host this does nothing.

        Raises
        ------
        BackendError
            The plain equations fail on the device, too.
        """
        if self._on_host:
            return
        self._check_device()
        with self._computing():
            self._trial()()
            self._evaluate.warm_up(self.model)

    def _check_device(self) -> None:
        """Check a device's fast code once, before the first step; if one rank uses plain code, all do."""
        if self._is_checked:
            return
        model = self.model
        sizes = (self.batch_size, self.group.size)
        if self._on_host or self.code == "plain" or not hasattr(model, "loss"):
            return
        trial = functools.cache(self._trial)  # called unless the check is stored
        dispatch = getattr(model, "dispatch", (type(model).__name__,))
        terms = self.objective.terms
        rule = self._optimizer.rule.name
        dispatch = *dispatch, sizes, self._layout(), terms, self.clip_norm is None, rule
        code = checked_code("training", dispatch, model.params.flat, lambda: trial()(), runs=2)
        codes = self.group.gather(code)
        self._is_checked = True
        if "plain" in codes:
            if code == "fast":
                rank = codes.index("plain")
                say(f"xpcap: rank {rank} runs plain code, so all ranks do", err=True)
            self.code = "plain"
            self._falls_back = True

    def _trial(self) -> Callable[[], Results]:
        """A function that computes a step with a copy of the model, in plain or fast code."""
        flat = self.model.params.flat
        objective = self.objective
        words = self.data.vocabulary
        n = len(range(self.group.rank, self.batch_size, self.group.size)) * objective.samples
        memory = DeviceWorkspace(flat, self._layout())
        batch = trial_batch(self._loader, objective, words.null, len(words), n, memory.layout)

        def update(params: Parameters, grads: Parameters) -> Array:
            norm = self._clip(grads, memory.scope("solver"))
            Optimizer(self.update_rule, self.optim_config or {}, params).update(params, grads)
            return norm

        def compute() -> Results:
            workspace = Workspace(flat) if current_code() == "plain" else memory
            return trial_step(self.model, objective, batch, workspace, update)

        return compute

    def _computing(self) -> AbstractContextManager[None]:
        """A context in which the solver computes.

        OptionError : this thread uses plain code and the solver fast code, or vice versa.
        """
        if self._falls_back:
            return plain()
        check_code("the training", self.code)
        return contextlib.nullcontext()

    # ---- Progress

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self._order.steps(self.batch_size)

    @property
    def iteration(self) -> int:
        """Steps done."""
        return len(self._record)

    @property
    def epoch(self) -> int:
        """Epochs done, including those before a scored start."""
        return self._records[-1]["epoch"] if self._records else 0

    @property
    def _last_epoch(self) -> int:
        """Number of the last planned epoch."""
        return self._call.first_epoch + self.num_epochs

    @property
    def finished(self) -> bool:
        """True if all epochs are done, patience is exhausted, or there is another reason to end."""
        is_exhausted = self.patience is not None and self.epoch - self.best_epoch >= self.patience
        return self.epoch >= self._last_epoch or is_exhausted or self.ending is not None

    @property
    def ending(self) -> str | None:
        """Reason to end early, from `stop` or the objective; None: continue."""
        if self._call.stopped is not None or not epochs_of(self._records):
            return self._call.stopped
        return self.objective.collapse(self.records[-1])

    @property
    def loss_history(self) -> list[float]:
        """Loss of every iteration, as a copy; reads those that are still on the device."""
        return list(self._record.losses)

    @property
    def history(self) -> list[Record]:
        """Records of the epochs so far, as copies."""
        return epochs_of(self.records)

    @property
    def times(self) -> list[Record]:
        """Seconds of the epochs that this solver trained, as copies."""
        return copy.deepcopy(self._times)

    @property
    def start(self) -> Record | None:
        """Record of the start, as a copy; None if it was not scored."""
        return next(filter(is_start, self.records), None)

    @property
    def records(self) -> list[Record]:
        """Records of the start, if it was scored, and of the epochs, as copies."""
        return copy.deepcopy(self._records)

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch; that of the start if no epoch is better."""
        return self._best.get("epoch", 0)

    @property
    def best_val_acc(self) -> float:
        """Validation accuracy of the best epoch; 0 without one."""
        return self._best.get("val_accuracy", 0.0)

    @property
    def _best(self) -> Record:
        return best_of(self._records) or {}

    @property
    def train_acc_history(self) -> list[float]:
        """Share of correct training words after each epoch, on at most 1,000 captions."""
        return [record["train_accuracy"] for record in self.history]

    @property
    def val_acc_history(self) -> list[float]:
        """Share of correct validation words after each epoch; empty without a val split."""
        return [record["val_accuracy"] for record in self.history if "val_accuracy" in record]

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; `lr_decay` continues from a value that is set.

        A further call of `train` with a linear decay begins again at the value set last.
        """
        return self._optimizer.config["learning_rate"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        # 0 is allowed, since a warm-up begins there
        _, kind = self._optimizer.rule.numbers["learning_rate"]
        rate = kind.check("learning_rate", value)
        self._optimizer.config["learning_rate"] = self._optimizer.first_rate = rate

    @property
    def optim_configs(self) -> dict[str, Mapping[str, Any]]:
        """Read-only config of the rule for each parameter, with views of its state arrays."""
        config = self._optimizer.config
        state_of = self._optimizer.state_of
        return {name: MappingProxyType({**config, **state_of(name)}) for name in self.model.params}

    def check_accuracy(
        self, X: Array, y: Array, num_samples: int | None = None, batch_size: int = 100
    ) -> float:
        """Share of the words of captions that the model predicts correctly.

        Parameters
        ----------
        X : array (N, D), float
            Features.
        y : array (N, T+1), int
            Captions.
        num_samples : int or None
            Limit of captions to score, spread evenly. None: all.
        batch_size : int

        Returns
        -------
        accuracy : float

        Raises
        ------
        ValueError
            X and y have different lengths.
        OptionError
            A number is out of range.
        """
        return accuracy(self.model, X, y, num_samples, batch_size)

    # ---- Parts of an epoch

    @property
    def _scored(self) -> Any:
        """The model that is scored and whose best parameters are kept; a subclass may average."""
        return self.model

    def _evaluate_epoch(self) -> Record:
        """Record of the epoch that was just trained."""
        self._require_finite()
        _check_same(self.group, self.model.params, self.epoch + 1)
        losses = self._record.losses[-self.steps_per_epoch :]
        record = {
            "epoch": self.epoch + 1,
            "iteration": self.iteration,
            "learning_rate": self.learning_rate,
            **figures_of(self.objective, float(np.mean(losses)), self.history),
            **self._evaluate(self._scored, between=self._tell_step),
        }
        if self.select == "last":
            record[LATEST] = 1
        if not np.isfinite(val_loss := record.get("val_loss", 0.0)):
            raise TrainingError(
                f"val_loss of epoch {record['epoch']} is {val_loss}, expected a finite number; is"
                f" the learning rate, now {self.learning_rate:g}, too high?"
            )
        return record

    def _show_loss(self, shown: Any) -> None:
        """Print the loss every `print_every` steps; show it on the bar every few seconds."""
        printed = self.verbose and (self.iteration - 1) % self.print_every == 0
        if not printed and (shown.disable or not self._pace.due):
            return
        self._require_finite()
        loss = self._record.losses[-1]
        last = self._last_epoch * self.steps_per_epoch
        if printed:
            say(f"(Iteration {self.iteration} / {last}) loss: {loss:f}")
        if not shown.disable:
            shown.set_postfix_str(f"loss {loss:.2f}")
            self._pace.done()

    def _tell_step(self) -> None:
        for watcher in self.watchers:
            watcher.step(self)

    def _report_epoch(self) -> None:
        """Call the watchers at an epoch; the report stays due until all have returned."""
        for watcher in self.watchers:
            watcher.epoch(self)
        self._call.report_due = False

    def _require_finite(self) -> None:
        """Raise TrainingError if a step was not finite. Call this before recording a loss."""
        if error := self._record.fault(self.model.params, self.learning_rate):
            raise error

    # ---- The state

    def state(self) -> TrainingState:
        """State of the training, copied to the host; for watchers, and between calls of `train`.

        Returns
        -------
        state : TrainingState

        Raises
        ------
        TrainingError
            A loss, gradient norm, parameter or moment is not finite, so training cannot continue.
        OptionError
            Captions are drawn from NumPy's global stream, which a state does not hold.
        """
        self._require_stream("state")
        self._require_finite()
        return TrainingState.of(self)

    def restore(
        self, state: TrainingState, *, best_params: Mapping[str, Array] | None = None
    ) -> None:
        """Continue from a state: the next `train` takes the step after its last.

        The result has the same bits as training without a break: on the host with the same machine
        and threads, on a device with fast code and the same GPU model, CUDA libraries, CuPy and
        settings. If this raises, nothing is changed.

        Parameters
        ----------
        state : TrainingState
            From a solver with the same model, data, update rule, batch size and figures in its
            records. Hyperparameters and `model.seed` are taken from it. `num_epochs` may differ: a
            larger number adds epochs.
        best_params : mapping of str to array, or None
            The best parameters so far. None if the state has them, because the best epoch has just
            ended.

        Raises
        ------
        DataError
            The state has another model, data set, rule or batch size, or other figures, as from
            another `select` or objective.
        ValueError
            `best_params` are from another model.
        OptionError
            As in `state`; or the state was computed by plain code and this solver uses fast code,
            or vice versa.
        TypeError
            `state` is no TrainingState.
        """
        if not isinstance(state, TrainingState):
            raise InvalidTypeError(
                f"state is a {type(state).__name__}, expected a TrainingState, as"
                " CaptioningSolver.state() or load_state returns"
            )
        self._require_stream("restore")
        figures = self._evaluate.names
        if state.epoch:
            figures |= figures_of(self.objective, float(state.arrays["losses"][-1:].sum())).keys()
        self._check_device()
        with self._computing():
            state.check_fits(self, figures)
        best: Any = None if best_params is None else self.model.params.holding(best_params)
        self._times = []
        self._call = TrainCall()
        state.write_to(self)
        if best is None:
            best = self._scored.params.copy() if state.is_best else {}
        self.best_params = best

    def _require_stream(self, method: str) -> None:
        """Raise OptionError if captions are drawn from NumPy's global stream."""
        if self._order.rng is None:
            raise OptionError(
                "`replacement` without `seed` draws captions from NumPy's global stream, which a"
                " state does not hold, expected `seed`"
            )

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError(
            "a solver cannot be copied or pickled, since it holds buffers; make another solver from the same"
            " arguments, and call other.restore(solver.state())"
        )


OPTIONS = described(CaptioningSolver)
SETTABLE = (
    *("learning_rate", "lr_decay", "num_epochs", "clip_norm", "patience", "print_every"),
    *("verbose", "progress"),
)
# Arguments from which parts of a solver are built
BUILT_IN = {field.name for field in fields(CaptioningSolver)}.difference(SETTABLE)


# ---- Checks of a solver's arguments


def _check_model(model: Any, vocabulary: Vocabulary) -> None:
    """Raise InvalidTypeError, or DataError if model and data give a word different ids."""
    params = getattr(model, "params", None)
    if not isinstance(params, Parameters):
        raise InvalidTypeError(
            f"model.params is a {type(params).__name__}, expected"
            " xpcap.models.parameters.Parameters, named views of one flat buffer; is it the"
            " course's CaptioningRNN? xpcap.CaptioningRNN takes the same arguments"
        )
    for word, i in getattr(model, "word_to_idx", {}).items():
        j = vocabulary.word_to_idx.get(word, i)
        if i != j:
            raise DataError(
                f"the model gives {word!r} the id {i} and the data {j}, expected the same id; was"
                " the model made for other data?"
            )


def _check_choice(select: str, patience: int | None, data: CaptionData) -> None:
    """Raise OptionError if `select` or `patience` needs scores that are not computed."""
    lacks_val = "val" not in data.splits
    if lacks_val and select == "cider":
        raise OptionError(
            "`select` is cider, but the data has no val split, expected last, or data with one"
        )
    if patience is not None and (lacks_val or select == "last"):
        why = "but the data has no val split" if lacks_val else "but `select` is last"
        raise OptionError(
            f"`patience` is {patience}, {why}, expected None; without scores to compare, training"
            " never stops early"
        )


def _check_group(group: Group, objective: Any, seed: int | None, batch_size: int) -> None:
    """Raise OptionError if the ranks of a group cannot share batches."""
    if (theirs := getattr(objective, "group", group)) is not group:
        raise OptionError(
            f"`objective` has a group of {theirs.size}, expected the solver's, of {group.size}"
        )
    if seed is None and group.size > 1:
        raise OptionError(
            f"`seed` is None for {group.size} ranks, expected a whole number, since each rank would"
            " draw other captions from its NumPy's global stream"
        )
    if batch_size < group.size:
        raise OptionError(
            f"`batch_size` is {batch_size} for {group.size} ranks, expected at least a caption per"
            " rank; use a larger batch, or fewer ranks"
        )


def _epoch_captions(objective: Objective, data: CaptionData) -> np.ndarray:
    """The checked numbers of the captions that an epoch visits."""
    count = len(data.split("train").captions)
    captions = as_numbers("the result", objective.epoch_indices(data), count)
    if captions.ndim != 1 or not len(captions):
        got = f"has shape {captions.shape}" if captions.size else "is empty"
        raise InvalidValueError(
            f"the result of `epoch_indices` {got}, expected numbers of train captions (n,)"
        )
    return captions


# ---- Ranks


def _all_reduce(group: Group, loss: Array, grads: Parameters) -> Array:
    """Sum gradients over ranks in place; return the summed loss, 0-d. Nothing is read."""
    if group.size == 1:
        return loss
    group.all_reduce(grads.flat)
    total = get_array_module(grads.flat).reshape(loss, (1,))
    group.all_reduce(total)
    return total.reshape(())


def _check_same(group: Group, params: Parameters, epoch: int) -> None:
    """Raise TrainingError if the parameters of a rank do not have the bits of rank 0's."""
    if group.size == 1:
        return
    content = np.ascontiguousarray(to_numpy(params.flat)).data
    digests = group.gather(hashlib.sha256(content).hexdigest())
    if odd := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise TrainingError(
            f"after epoch {epoch} rank {odd[0]} has other parameters than rank 0, expected the same"
            " bits on every rank; was the model changed on one rank, or is its memory or network"
            " faulty?"
        )
