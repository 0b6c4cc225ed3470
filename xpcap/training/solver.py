"""CaptioningSolver: the training loop. Take a batch, get its loss and gradients, clip, update, record; evaluate after each epoch."""

import copy
import hashlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpcap import optim
from xpcap.backend import Array, get_array_module, is_device_array, to_numpy
from xpcap.data.cs231n import from_coco
from xpcap.data.dataset import CaptionData, check_data
from xpcap.data.feed import Feed
from xpcap.data.vocabulary import Vocabulary
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError, OptionError, TrainingError, unknown
from xpcap.memory import Workspace
from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.network import GRADIENTS
from xpcap.models.packing import dealt
from xpcap.models.parameters import Parameters
from xpcap.ops import draw_views, global_norm
from xpcap.optim import Optimizer, check_lr_decay
from xpcap.progress import BAR_SECONDS, Pace, bar, say
from xpcap.threads import cores
from xpcap.training.evaluate import SELECT, Judge, accuracy
from xpcap.training.history import EpochHistory, Record
from xpcap.training.losses import StepRecord
from xpcap.training.objectives import Objective, check_objective, collapse_of, cross_entropy, loss_and_gradients, training_figures, visits
from xpcap.training.state import EpochOrder, TrainingState, by_parameter, capture, check_fits, restore_descent, restore_order


class CaptioningSolver(EpochHistory):
    """Train a captioner: CS231n's class, with what it only promised, which is validation, best parameters, and epochs without replacement.

    Parameters
    ----------
    model : CaptioningRNN, or anything with `params` (a Parameters), `score`, and what the objective needs
    data : CaptionData, or the dict that load_coco_data returns
    update_rule : "sgd", "sgd_momentum", "rmsprop" or "adam"
    optim_config : hyperparameters of the rule, as in xpcap.optim
    lr_decay : multiplies the learning rate after each epoch; "linear": the rate falls with every step, to zero after the last epoch
    select : what tells the best epoch: "loss", the lowest validation loss, or "cider", the highest CIDEr-D of greedy captions of the val split
    batch_size, num_epochs : an epoch visits every training caption once, in an order of its own; its last batch may be smaller
    print_every, verbose : print the loss every `print_every` steps
    clip_norm : largest global norm of a gradient; None: no clipping. The loss is summed over time: 5 on a per-word mean is about 55 here
    seed : of the order of captions; None draws it from NumPy's legacy global stream. Dropout masks come from `model.seed` and the iteration
    patience : stop after this many epochs in a row without a better one; None: never before `num_epochs`
    progress : show a progress bar where standard error is a terminal
    on_step : called with the solver after each step and between the batches of a validation: `state` may be asked for there. What it raises
        ends training; `train`, or the state, goes on from there
    on_epoch : called with the solver after each epoch, once it is recorded
    objective : from (model, Batch, workspace) to loss and gradients; the solver has no other way to get a gradient
    group : the processes that train together; each computes its share of every batch, and all do the same steps. SINGLE: this one

    Attributes
    ----------
    loss_history : one float an iteration
    epoch, history, times, best_params and more : see EpochHistory. The model itself goes on from the latest parameters, not from the best
    learning_rate : of the next step; may be set

    Raises
    ------
    OptionError : an unknown keyword, rule or hyperparameter, with the nearest known one, or a bad value. DataError : data that does not fit together, or
        a word to which model and data give different ids. TypeError : a model whose parameters are not a Parameters.
    """

    def __init__(
        self,
        model: Any,
        data: CaptionData | Mapping[str, Any],
        *,
        update_rule: str = "sgd",
        optim_config: Mapping[str, Any] | None = None,
        lr_decay: float | str = 1.0,
        select: str = "loss",
        batch_size: int = 100,
        num_epochs: int = 10,
        print_every: int = 10,
        verbose: bool = True,
        clip_norm: float | None = None,
        seed: int | None = None,
        patience: int | None = None,
        progress: bool = False,
        on_step: Callable[["CaptioningSolver"], None] | None = None,
        on_epoch: Callable[["CaptioningSolver"], None] | None = None,
        objective: Objective = cross_entropy,
        group: Group = SINGLE,
        **unknown_keywords: Any,
    ) -> None:
        refuse_keywords(CaptioningSolver, unknown_keywords)
        super().__init__(num_epochs, patience, collapse_of(objective))
        self.model, self.data = model, data if isinstance(data, CaptionData) else from_coco(data)
        self.update_rule, self.optim_config, self.lr_decay = update_rule, dict(optim_config or {}), lr_decay
        self.select, self.clip_norm, self.batch_size, self.objective, self.group = select, clip_norm, batch_size, objective, group
        self.print_every, self.verbose, self.progress, self.on_step, self.on_epoch = print_every, verbose, progress, on_step, on_epoch
        check_options(self, seed)
        flat = model.params.flat
        self._on_host = get_array_module(flat) is np
        self._visits = visits(objective, self.data)
        self._order = EpochOrder(len(self._visits), seed)
        self._feed, self._record = Feed(self.data, flat), StepRecord(flat, self.steps_per_epoch)
        self._judge = Judge(self.data, self._feed, select, group)
        self._descent = Optimizer(update_rule, self.optim_config, flat)
        self._workspace = workspace_for(group, flat, cores() if self._on_host else 1)
        self._pace = Pace(BAR_SECONDS)  # of reading losses for the progress bar
        self._report_due = False  # on_epoch has yet to hear of the last epoch

    def train(self) -> None:
        """Train for `num_epochs` epochs, or until patience ends. Called again it goes on: with what was interrupted, else for as many epochs more.

        An interrupt may come anywhere; one that falls into the update of the parameters itself can apply that one batch twice.

        Raises
        ------
        TrainingError : a loss or gradient is not finite; noticed at once on the host, and on a device where losses are read: to print or save,
            and at the end of an epoch before anything is kept of it. Best parameters and history are those of the epochs before.
        """
        if self._report_due:
            self._report_epoch()
        elif self.finished:
            self._last_epoch = self.epoch + self.num_epochs
            self._descent.begin_again(self.lr_decay)
            self._train_epoch()
        while not self.finished:
            self._train_epoch()

    def score_start(self) -> None:
        """Score the model as it is, before the first epoch: its parameters count as the best until an epoch is better."""
        self._begin_at(self._judge(self.model, between=lambda: None), self.model.params)

    def _train_epoch(self) -> None:
        """One epoch, or the rest of an interrupted one. It counts as done once everything about it is recorded."""
        start, batches = time.perf_counter(), self._order.batches(self.batch_size)
        first = self._order.position
        with bar(batches, self.progress, f"epoch {self.epoch + 1}/{self._last_epoch}", self.steps_per_epoch, first) as shown:
            for places in shown:
                self.train_batch(places)
                self._show_loss(shown)
                self._call_on_step()
        trained = time.perf_counter()
        record = self._evaluate_epoch()
        times = {"epoch": record["epoch"], "steps": self._order.position - first, **({"ranks": self.group.size} if self.group.size > 1 else {})}
        times |= {"train_seconds": trained - start, "check_seconds": time.perf_counter() - trained}
        self._add_epoch(record, times, self.model.params)
        self._descent.end_epoch(self.lr_decay)
        self._order.end()
        self._report_due = True
        self._report_epoch()

    def train_batch(self, places: np.ndarray) -> None:
        """A recorded training step on captions, by their positions in the objective's list.

        `train` calls this for each batch of an epoch; it also evaluates, prints and calls back.
        """
        split, captions = self._feed.split("train"), self._visits[places]
        views = draw_views(len(captions), split.views, getattr(self.model, "seed", 0), self.iteration)
        shard = dealt_to(self.group, split.captions[captions], self.data.vocabulary.null)
        batch = self._feed.minibatch("train", captions, views, shard)._replace(step=self.iteration)
        loss, norm = self._step(batch, require_finite=self._on_host)
        self._record.add(loss, norm)
        self._descent.end_step(self.lr_decay, (self._last_epoch - self.epoch) * self.steps_per_epoch - self._order.position)
        self._order.position += 1

    def _step(self, batch: Batch, require_finite: bool = False) -> tuple[Array, Array]:
        """An optimisation step: its loss, and the norm of the gradient before clipping, both 0-d."""
        loss, grads = loss_and_gradients(self.objective, self.model, batch, self._workspace)
        loss = add_up(self.group, loss, grads)
        buffer = self._workspace.buffer.scope("solver")
        norm = global_norm(grads.flat, buffer) if self.clip_norm is None else optim.clip_by_global_norm(grads.flat, self.clip_norm, buffer=buffer)
        if require_finite and not (np.isfinite(loss) and np.isfinite(norm)):
            self._fail(self._record.explain(loss, norm, self.model.params, grads, self.learning_rate))
        self._descent.update(self.model.params.flat, grads.flat)
        return loss, norm

    def step(self, features: Array | FeatureRows, captions: Array) -> Array:
        """Take one optimisation step on a minibatch of your own. It is not recorded, and nothing is read from a device.

        Dropout masks are those of the step after the model's last one: `model.loss` counts. On the host, where loss or gradient are not finite, it
        raises a TrainingError and has changed nothing. On a device that shows in the loss.

        Parameters
        ----------
        features : array (N, D), host or device, or FeatureRows, scaled as the model is to see them
        captions : array (N, T+1), int

        Returns
        -------
        loss : 0-d, of the model's library; reading it waits for the device
        """
        return self._step(Batch(features, captions), require_finite=self._on_host)[0].copy()  # the next step overwrites a device's own

    def warm_up(self) -> None:
        """Do once what training and validation do on a device, with a copy of the model.

        Kernels are then compiled before any step is timed; at the real sizes, since CuPy compiles
        for some of them. Parameters, moments, the order of captions and random streams stay as they
        were. On the host this does nothing.
        """
        flat = self.model.params.flat
        if not is_device_array(flat):
            return
        model, record = copy.copy(self.model), StepRecord(flat, 1)
        captions = self._visits[: self.batch_size]
        batch = self._feed.minibatch("train", captions)._replace(step=0)  # features stay on the device
        loss, grads = self.objective(model, batch, Workspace(flat, 1))
        clip = self.clip_norm
        norm = global_norm(grads.flat) if clip is None else optim.clip_by_global_norm(grads.flat, clip)
        descent = Optimizer(self.update_rule, self.optim_config, flat)
        descent.update(model.params.flat, grads.flat)
        record.add(loss, norm)
        self._judge.warm_up(model)
        float(model.score(batch.features, batch.captions).nll)  # waits for the device

    @property
    def steps_per_epoch(self) -> int:
        """Batches it takes to visit every training caption once."""
        return -(-self._order.count // self.batch_size)

    @property
    def iteration(self) -> int:
        """Steps done."""
        return len(self._record)

    @property
    def loss_history(self) -> list[float]:
        """The loss of every iteration so far; reads those that are still on the device."""
        return self._record.losses

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; `lr_decay` goes on from a value that is set. OptionError : negative or not finite."""
        return self._descent.config["learning_rate"]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        check_rate(value)
        self._descent.config["learning_rate"] = float(value)

    @property
    def optim_configs(self) -> dict[str, Mapping[str, Any]]:
        """The rule's config for each parameter, read-only. There is one flat config: state arrays here are views of it."""
        return by_parameter(self.update_rule, self._descent.config, self.model.params.shapes)

    def check_accuracy(self, X: Array, y: Array, num_samples: int | None = None, batch_size: int = 100) -> float:
        """Share of the words of captions y (N, T+1) scored highest, given features X (N, D); on at most `num_samples` captions, spread evenly."""
        return accuracy(self.model, X, y, num_samples, batch_size)

    def _evaluate_epoch(self) -> Record:
        """The record of the epoch that was just trained."""
        self._require_finite()
        check_same(self.group, self.model.params, self.epoch + 1)
        record = {"epoch": self.epoch + 1, "iteration": self.iteration, "learning_rate": self.learning_rate}
        record |= training_figures(self.objective, float(np.mean(self.loss_history[-self.steps_per_epoch :])))
        record |= self._judge(self.model, between=self._call_on_step)
        if not np.isfinite(val_loss := record.get("val_loss", 0.0)):
            cause = f"is the learning rate, now {self.learning_rate:g}, too high?"
            self._fail(f"val_loss of epoch {record['epoch']} is {val_loss}, expected a finite number; {cause}")
        return record

    def _show_loss(self, shown: Any) -> None:
        """Print the loss every `print_every` steps, and keep it on the progress bar `shown`. By time there: each read waits for a device."""
        printed = self.verbose and (self.iteration - 1) % self.print_every == 0
        if not printed and (shown.disable or not self._pace.due):
            return
        self._require_finite()
        if printed:
            say(f"(Iteration {self.iteration} / {self._last_epoch * self.steps_per_epoch}) loss: {self.loss_history[-1]:f}")
        if not shown.disable:
            shown.set_postfix_str(f"loss {self.loss_history[-1]:.2f}")
            self._pace.done()

    def _call_on_step(self) -> None:
        if self.on_step is not None:
            self.on_step(self)

    def _report_epoch(self) -> None:
        """Call on_epoch; it stays due until that returns."""
        if self.on_epoch is not None:
            self.on_epoch(self)
        self._report_due = False

    def _require_finite(self) -> None:
        """TrainingError : a step so far was not finite. Called before any loss is shown and before anything is kept."""
        if fault := self._record.fault(self.model.params, self.learning_rate):
            self._fail(fault)

    def _fail(self, why: str) -> None:
        self._order.end()  # once the caller has mended the model, an epoch begins anew
        raise TrainingError(f"CaptioningSolver: {why}")

    def state(self) -> TrainingState:
        """Where training stands, copied to the host. May be asked for in `on_step`, in `on_epoch`, and while training does not run.

        Raises
        ------
        TrainingError : a loss, gradient norm, parameter or moment is not finite: there is nothing to go on from.
        """
        self._require_finite()
        return capture(self.model.params, self._descent, self._order, self.batch_size, self.loss_history, self.history, self.start)

    def restore(self, state: TrainingState, *, best_params: Mapping[str, Array] | None = None) -> None:
        """Go on from a state: the next `train` does what it would have done then. On the host that is bit for bit with the same machine and threads,
        on a device with the same card model, CUDA libraries, CuPy and their settings.

        Parameters
        ----------
        state : of a solver for the same model, data, update rule and batch size; hyperparameters are taken from it
        best_params : those that were the best by then. If the last epoch was the best and nothing was trained since, they are in `state`

        Raises
        ------
        DataError : a state of another model, data set, rule or batch size. ValueError : best_params of another model. Nothing is changed then.
        """
        params = self.model.params
        check_fits(state, params, self._descent, self._order, self.batch_size)
        best = None if best_params is None else params.holding(best_params)
        restore_descent(state, params, self._descent)
        self._report_due = False
        restore_order(state, self._order)
        self._record = StepRecord(params.flat, self.steps_per_epoch, state.losses.tolist())
        self._restore_epochs(state.start, state.history, params.copy() if best is None and state.is_best else best)

    def __reduce__(self) -> Any:
        why = "since it holds callbacks and buffers; make another solver from the same arguments, and write other.restore(solver.state())"
        raise TypeError(f"CaptioningSolver: cannot be copied or pickled, {why}")


# Checks of a solver's arguments


def refuse_keywords(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """OptionError : a keyword was given that the function does not have; it lists those there are, and suggests the nearest."""
    if given:
        known = [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
        raise unknown(function.__name__, "keyword", next(iter(given)), known)


def check_options(solver: Any, seed: Any) -> None:
    """Check what a solver was made from.

    Raises
    ------
    TypeError : the model's parameters are not a Parameters. OptionError : a number out of its range. DataError : model and data mean different
        words by an id.
    """
    check_model(solver.model)
    check_objective(solver.objective)
    for name in ("batch_size", "num_epochs", "print_every", *(["patience"] if solver.patience is not None else [])):
        check_count(name, getattr(solver, name))
    if solver.clip_norm is not None:
        check_positive("clip_norm", solver.clip_norm)
    check_lr_decay(solver.lr_decay)
    if solver.select not in SELECT:
        raise unknown("CaptioningSolver", "select", solver.select, SELECT)
    if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
        raise OptionError(f"CaptioningSolver: seed is {seed!r}, expected a whole number of at least 0, or None")
    if solver.batch_size < solver.group.size:
        raise OptionError(
            f"CaptioningSolver: `batch_size` is {solver.batch_size} for {solver.group.size} ranks, expected at least a caption for each; "
            "raise it, or start fewer"
        )
    check_data("CaptioningSolver: the data", solver.data, start=False)
    check_words(getattr(solver.model, "word_to_idx", {}), solver.data.vocabulary)


def check_model(model: Any) -> None:
    """TypeError : the model's parameters are not views of one flat buffer."""
    params = getattr(model, "params", None)
    if not isinstance(params, Parameters):
        raise TypeError(
            f"CaptioningSolver: model.params is a {type(params).__name__}, expected xpcap.models.parameters.Parameters, named views of one flat "
            "buffer; is the model the course's own CaptioningRNN? xpcap.CaptioningRNN takes the same arguments"
        )


def check_count(name: str, value: Any) -> None:
    """OptionError : not a whole number of at least 1."""
    if not (isinstance(value, int | np.integer) and value >= 1):
        raise OptionError(f"CaptioningSolver: {name} is {value!r}, expected a whole number of at least 1")


def check_positive(name: str, value: Any) -> None:
    """OptionError : not a positive finite number."""
    if not (isinstance(value, int | float | np.number) and 0 < value < float("inf")):
        raise OptionError(f"CaptioningSolver: {name} is {value!r}, expected a positive number")


def check_rate(value: Any) -> None:
    """OptionError : no learning rate: negative, or not a finite number. A rate of 0 is one, as where a warm-up begins."""
    if not (isinstance(value, int | float | np.number) and 0 <= value < float("inf")):
        raise OptionError(f"CaptioningSolver: learning_rate is {value!r}, expected a finite number of at least 0")


def check_words(word_to_idx: Mapping[str, int], vocabulary: Vocabulary) -> None:
    """DataError : model and data give a word different ids."""
    for word, i in word_to_idx.items():
        j = vocabulary.word_to_idx.get(word, i)
        if i != j:
            raise DataError(
                f"CaptioningSolver: the model gives {word!r} the id {i} and the data {j}, expected one id; was the model made for other data?"
            )


# What the ranks of a group do together


def dealt_to(group: Group, captions: np.ndarray, null: int) -> np.ndarray | None:
    """Numbers of the captions of a batch (N, T+1) that this rank computes; None: all. Every rank gets as much work as any other."""
    return None if group.size == 1 else dealt(captions, null, group.rank, group.size)


def workspace_for(group: Group, flat: Array, parts: int) -> Workspace:
    """A workspace of so many parts for a model with these parameters, its gradients where the group sums them fastest."""
    workspace = Workspace(flat, parts)
    if (memory := group.sum_buffer(flat)) is not None:
        workspace.hold(GRADIENTS, memory)
    return workspace


def add_up(group: Group, loss: Array, grads: Parameters) -> Array:
    """Sum gradients, in place, and the loss of a batch's shares over the ranks; return the loss, 0-d. On a device nothing is read."""
    if group.size == 1:
        return loss
    group.all_reduce(grads.flat)
    total = get_array_module(grads.flat).reshape(loss, (1,))
    group.all_reduce(total)
    return total.reshape(())


def check_same(group: Group, params: Parameters, epoch: int) -> None:
    """TrainingError : the parameters of a rank are not, bit for bit, those of rank 0."""
    if group.size == 1:
        return
    digests = group.all_gather(hashlib.sha256(np.ascontiguousarray(to_numpy(params.flat)).data).hexdigest())
    if odd := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise TrainingError(
            f"CaptioningSolver: after epoch {epoch} rank {odd[0]} has other parameters than rank 0, expected the same bits on every rank; "
            "was the model changed on one of them, or is its memory or network faulty?"
        )
