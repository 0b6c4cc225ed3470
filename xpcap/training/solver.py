"""CaptioningSolver: minibatches in, updates out, with validation, best parameters and history."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from xpcap import optim
from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.cores import cores
from xpcap.data.cs231n import from_coco
from xpcap.data.dataset import CaptionData, spread
from xpcap.data.feed import Feed
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, OptionError, TrainingError, unknown
from xpcap.metrics import TeacherForced, teacher_forced
from xpcap.models.parameters import Parameters
from xpcap.ops import global_norm
from xpcap.progress import bar, say
from xpcap.training.state import TrainingState, best_of, check_finite
from xpcap.training.watch import Step, StepRecord, diagnose
from xpcap.workspace import Workspace

ACCURACY_SAMPLE = 1000  # training captions, at most, that an epoch's train_accuracy is measured on
RECORD = 4096  # steps, at most, whose losses gather on the device before they have to be read
ORDER = 2  # the stream of a seed that orders captions; CaptioningRNN draws from streams 0 and 1
DEFAULTS: dict[str, Any] = {
    "update_rule": "sgd",
    "optim_config": None,
    "lr_decay": 1.0,
    "batch_size": 100,
    "num_epochs": 10,
    "print_every": 10,
    "verbose": True,
    "clip_norm": None,
    "seed": None,
    "patience": None,
    "progress": False,
    "on_step": None,
    "on_epoch": None,
}


class CaptioningSolver:
    """Train a captioner.

    Parameters
    ----------
    model : CaptioningRNN, or anything with its `params` (one flat buffer), `loss` (with a workspace) and `score`
    data : CaptionData, or the dict that load_coco_data returns
    update_rule : "sgd", "sgd_momentum", "rmsprop" or "adam"
    optim_config : hyperparameters of the rule, as in xpcap.optim
    lr_decay : multiplies the learning rate after each epoch
    batch_size, num_epochs : an epoch visits every training caption once, in an order of its own; its last batch may be smaller
    print_every, verbose : print a line with the loss every so many steps
    clip_norm : largest global norm of a gradient; None for no clipping. The loss is summed over time: 5 on a per-word mean is about 55 here
    seed : of the order of captions; None draws it from NumPy's legacy global stream. Dropout masks come from `model.rng`
    patience : stop after this many epochs in a row without a lower validation loss; None: never before `num_epochs`
    progress : show a progress bar where standard error is a terminal
    on_step : called with the solver after each step, and between the batches of a validation: wherever `state` may be asked for. What it
        raises ends training there, to be gone on with by `train` or from the state
    on_epoch : called with the solver after each epoch, when everything about it is recorded

    Attributes
    ----------
    loss_history : one float an iteration
    history : one dict an epoch: iteration, losses, perplexities, accuracies, learning rate; `times` has the seconds
    train_acc_history, val_acc_history : share of words guessed right after each epoch (on at most 1,000 training captions)
    best_params, best_val_loss, best_val_acc, best_epoch : the parameters with the least validation loss and what they reached; without
        a val split the latest. The model itself always goes on from the latest
    epoch, iteration : done so far
    optim_configs : the rule's config and state for each parameter, to be read

    Raises
    ------
    OptionError : an unknown keyword or rule, with the near one, or a bad value. DataError : data that does not fit together, or a
        word to which model and data give different ids.

    Examples
    --------
    Training that goes on in another process: ``save_state(path, solver.state())`` of xpcap.runs.folder there, and here a solver made the same
    way, then ``solver.restore(load_state(path, model.params.shapes))`` and ``solver.train()``.

    Notes
    -----
    CS231n's class, with what it only promised: validation, best parameters, epochs without replacement. Validation looks at no more
    captions than there are to train on, spread evenly over the split, so it stays a small part of an epoch.
    """

    def __init__(self, model: Any, data: CaptionData | Mapping[str, Any], **kwargs: Any) -> None:
        for keyword in kwargs:
            if keyword not in DEFAULTS:
                raise unknown("CaptioningSolver", "keyword", keyword, DEFAULTS)
        options = {**DEFAULTS, **kwargs}
        self.model = model
        self.data = data if isinstance(data, CaptionData) else from_coco(data)
        self.update_rule: str = options["update_rule"]
        self.optim_config: dict[str, Any] = dict(options["optim_config"] or {})
        self.lr_decay: float = options["lr_decay"]
        self.batch_size: int = options["batch_size"]
        self.num_epochs: int = options["num_epochs"]
        self.print_every: int = options["print_every"]
        self.verbose: bool = options["verbose"]
        self.clip_norm: float | None = options["clip_norm"]
        self.patience: int | None = options["patience"]
        self.progress: bool = options["progress"]
        self.on_step: Callable[[CaptioningSolver], None] | None = options["on_step"]
        self.on_epoch: Callable[[CaptioningSolver], None] | None = options["on_epoch"]
        counts = ("batch_size", "num_epochs", "print_every")
        for name in counts if self.patience is None else (*counts, "patience"):
            if not (isinstance(options[name], int | np.integer) and options[name] >= 1):
                raise OptionError(f"CaptioningSolver: {name} is {options[name]!r}, expected a whole number of at least 1")
        for name in ("lr_decay",) if self.clip_norm is None else ("lr_decay", "clip_norm"):
            if not (isinstance(options[name], int | float | np.number) and 0 < options[name] < float("inf")):
                raise OptionError(f"CaptioningSolver: {name} is {options[name]!r}, expected a positive number")
        _check_words(getattr(model, "word_to_idx", {}), self.data.vocabulary)
        seed = options["seed"]
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise OptionError(f"CaptioningSolver: seed is {seed!r}, expected a whole number of at least 0, or None")
        self.rng = np.random.default_rng([np.random.randint(2**31) if seed is None else int(seed), ORDER])
        self._reset()

    def _reset(self) -> None:
        self._config = optim.init(self.update_rule, self.model.params.flat, self.optim_config)
        self._train = self.data.split("train")
        self._order: np.ndarray | None = None  # of the epoch under way
        self._position = 0  # batches of it done
        self._untold = False  # whether on_epoch has yet to be called for the last epoch
        self._target = self.num_epochs
        self._feed = Feed(self.data, self.model.params.flat)
        self._host = get_array_module(self.model.params.flat) is np
        self._workspace = Workspace(self.model.params.flat, cores() if self._host else 1)
        self._record = StepRecord(self.model.params.flat, min(self.steps_per_epoch, RECORD))
        self._losses: list[float] = []  # those read so far
        self._before: Step | None = None  # the last step read that was finite
        self._bad: str = ""  # what was wrong with the first step that was not finite
        self.epoch = self.iteration = self.best_epoch = 0
        self.best_val_acc, self.best_val_loss = 0.0, float("inf")
        self.best_params: Parameters | dict[str, Array] = {}
        self.history: list[dict[str, Any]] = []
        self.times: list[dict[str, Any]] = []
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []

    @property
    def loss_history(self) -> list[float]:
        """The loss of every iteration so far; asking for it reads those that are still on the device."""
        self._read()
        return self._losses

    def _read(self) -> None:
        """Bring what the steps noted to the host, and keep in mind the first that was not finite."""
        if not len(self._record):
            return
        start, notes = len(self._losses), self._record.read()
        self._losses += notes.losses
        steps = [Step(start + k + 1, loss, norm) for k, (loss, norm) in enumerate(zip(notes.losses, notes.norms, strict=True))]
        good = steps[: notes.first_bad]
        self._before = good[-1] if good else self._before
        if notes.first_bad is not None and not self._bad:
            self._bad = diagnose(steps[notes.first_bad], self._before, self.model.params, None, self._config["learning_rate"])

    def _check_finite(self) -> None:
        """A TrainingError where a step so far was not finite: asked whenever losses are read to be told, and before anything is kept."""
        self._read()
        if self._bad:
            bad, self._bad = self._bad, ""
            self._give_up(bad)

    def _give_up(self, what: str) -> None:
        self._order = None  # what is trained next, after whatever the caller mends, is an epoch of its own
        raise TrainingError(f"CaptioningSolver: {what}")

    def state(self) -> TrainingState:
        """Where training stands, copied to the host. May be asked for in `on_step`, in `on_epoch`, and whenever training does not run.

        Raises
        ------
        TrainingError : a loss, gradient norm, parameter or moment is not finite: there is nothing to go on from.
        """
        self._check_finite()
        params, rule, rng = self.model.params, self.update_rule, getattr(self.model, "rng", None)
        moments = {key: _host(params, self._config[key]) for key in optim.STATE[rule]}
        state = TrainingState(
            params=_host(params, params.flat),
            rule=rule,
            optimizer={key: value for key, value in self._config.items() if key not in moments},
            moments=moments,
            captions=len(self._train.captions),
            batch_size=self.batch_size,
            order=None if self._order is None else self._order.astype(np.int32),
            position=0 if self._order is None else self._position,
            losses=np.array(self._losses, params.flat.dtype),
            history=[dict(record) for record in self.history],
            order_rng=dict(self.rng.bit_generator.state),
            dropout_rng=None if rng is None else dict(rng.bit_generator.state),
        )
        for thing, arrays in (("the value", state.params), *((f"{rule}'s {key}", moment) for key, moment in moments.items())):
            cause = f"iteration {self.iteration}; is the learning rate, now {self._config['learning_rate']:g}, too high?"
            check_finite("CaptioningSolver", thing, arrays, TrainingError, cause)
        return state

    def restore(self, state: TrainingState, best_params: Mapping[str, Array] | None = None) -> None:
        """Go on from where training stood: the next `train` does what it would have done then, bit for bit on the same machine, backend and threads.

        Parameters
        ----------
        state : of a solver for the same model, data, update rule and batch size; hyperparameters are taken from it
        best_params : those that were the best by then; where the last epoch was the best and nothing was trained since, they are in `state`

        Raises
        ------
        DataError : a state of another model, data set, rule or batch size. Nothing is changed then.
        """
        mine = (self.update_rule, self.batch_size, len(self._train.captions), dict(self.model.params.shapes), self.model.params.flat.dtype)
        theirs = (state.rule, state.batch_size, state.captions, dict(state.params.shapes), state.params.flat.dtype)
        for thing, here, there in zip(("update rule", "batch_size", "number of captions", "parameters", "dtype"), mine, theirs, strict=True):
            if here != there:
                raise DataError(
                    f"CaptioningSolver.restore: {thing} of the state: {there}, of this solver: {here}, expected the same; of another run?"
                )
        if (state.dropout_rng is None) != (getattr(self.model, "rng", None) is None):
            raise DataError("CaptioningSolver.restore: state and model have not both a generator of dropout masks, expected both; of another run?")
        try:
            config = optim.init(self.update_rule, self.model.params.flat, state.optimizer)
        except ValueError as error:
            raise DataError(f"CaptioningSolver.restore: the state's optimizer cannot be: {error}") from error
        self._reset()
        self._config = config
        for key, moment in state.moments.items():
            config[key][...] = asarray(moment.flat, like=config[key])
        self.model.params.flat[...] = asarray(state.params.flat, like=self.model.params.flat)
        self.rng.bit_generator.state = state.order_rng
        if state.dropout_rng is not None:
            self.model.rng.bit_generator.state = state.dropout_rng
        self._order = None if state.order is None else state.order.astype(np.int64)
        self._position, self.iteration, self._losses = state.position, state.iteration, state.losses.tolist()
        for record in state.history:
            self._note(dict(record))
        self.epoch = state.epoch
        if best_params is not None:
            self.best_params = self.model.params.copy()
            self.best_params.update(best_params)
        elif self.best_epoch == self.epoch and self._order is None:
            self.best_params = self.model.params.copy()

    @property
    def optim_configs(self) -> dict[str, Mapping[str, Any]]:
        """The rule's config parameter by parameter, to be read; state arrays are views of the flat ones, of which there is one config."""
        layouts = {key: Parameters(self.model.params.shapes, self._config[key]) for key in optim.STATE[self.update_rule]}
        rest = {key: value for key, value in self._config.items() if key not in layouts}
        return {name: MappingProxyType({**rest, **{key: views[name] for key, views in layouts.items()}}) for name in self.model.params}

    @property
    def steps_per_epoch(self) -> int:
        """Batches it takes to visit every training caption once."""
        return -(-len(self._train.captions) // self.batch_size)

    def step(self, features: Array, captions: Array) -> Array:
        """One optimisation step on a minibatch: loss and gradients, clipping, update. Reads nothing from a device.

        Parameters
        ----------
        features : array (N, D), host or device, or FeatureRows, scaled as the model is to see them
        captions : array (N, T+1), int

        Returns
        -------
        loss : 0-d, of the library of the model; reading it is the caller's wait
        """
        return self._step(features, captions)[0]

    def _step(self, features: Array, captions: Array, watch: bool = False) -> tuple[Array, Array]:
        """A step: its loss and the norm that its gradient had before clipping, both 0-d, and read only to `watch` that they are finite."""
        loss, grads = self.model.loss(features, captions, self._workspace)
        norm = global_norm(grads.flat) if self.clip_norm is None else optim.clip_by_global_norm(grads.flat, self.clip_norm)
        if watch and not (np.isfinite(loss) and np.isfinite(norm)):
            self._read()
            step = Step(self.iteration + 1, float(loss), float(norm))
            self._give_up(diagnose(step, self._before, self.model.params, grads, self._config["learning_rate"]))
        optim.update(self.update_rule, self.model.params.flat, grads.flat, self._config)
        return loss, norm

    def train(self) -> None:
        """Train for `num_epochs` epochs, or until patience ends. Called again it goes on: with what was interrupted, else for as many epochs more.

        An interrupt may come anywhere; one that falls into the update of the parameters itself can apply that one batch twice.

        Raises
        ------
        TrainingError : a loss or gradient is not finite; noticed at once on the host, and on a device where losses are read: to print or save,
            and at the end of an epoch before anything is kept of it. Best parameters and history are those of the epochs before.
        """
        if self._untold:
            self._tell_epoch()
            if self.finished:
                return
        elif self.finished:
            self._target = self.epoch + self.num_epochs
        while True:
            self._run_epoch()
            if self.finished:
                return

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has ended."""
        return self.epoch >= self._target or (self.patience is not None and self.epoch - self.best_epoch >= self.patience)

    def _run_epoch(self) -> None:
        """One epoch, or what is left of it. It counts as done only once all that is known of it is recorded."""
        start = time.perf_counter()
        if self._order is None:
            self._order, self._position = self.rng.permutation(len(self._train.captions)), 0
        first = self._position
        batches = range(self._position, self.steps_per_epoch)
        with bar(batches, self.progress, f"epoch {self.epoch + 1}/{self._target}", self.steps_per_epoch, self._position) as steps:
            for k in steps:
                rows = self._order[k * self.batch_size : (k + 1) * self.batch_size]
                if self._record.full:
                    self._read()
                self._record.add(*self._step_or_undo(*self._feed.minibatch("train", rows)))
                self._position, self.iteration = k + 1, self.iteration + 1
                if (self.iteration - 1) % self.print_every == 0:
                    self._tell(steps)
                self._pause()
        trained = time.perf_counter()
        record = self._examine()
        seconds = {"train_seconds": trained - start, "check_seconds": time.perf_counter() - trained}
        self._close(record, {"steps": self._position - first, **seconds})
        self._tell_epoch()

    def _step_or_undo(self, features: Array, captions: Array) -> tuple[Array, Array]:
        """A step; where it is broken off, the dropout masks it drew are given back."""
        rng = getattr(self.model, "rng", None)
        state = rng.bit_generator.state if rng is not None else None
        try:
            return self._step(features, captions, watch=self._host)
        except BaseException:
            if rng is not None:
                rng.bit_generator.state = state
            raise

    def _pause(self) -> None:
        if self.on_step is not None:
            self.on_step(self)

    def _tell_epoch(self) -> None:
        if self.on_epoch is not None:
            self.on_epoch(self)
        self._untold = False

    def _tell(self, steps: Any) -> None:
        if self.verbose or not steps.disable:
            self._check_finite()
        if self.verbose:
            say(f"(Iteration {self.iteration} / {self._target * self.steps_per_epoch}) loss: {self.loss_history[-1]:f}")
        if not steps.disable:
            steps.set_postfix_str(f"loss {self.loss_history[-1]:.2f}")

    def _examine(self) -> dict[str, Any]:
        """What there is to say of the epoch that has just been trained."""
        self._check_finite()
        record = {
            "epoch": self.epoch + 1,
            "iteration": self.iteration,
            "learning_rate": self._config["learning_rate"],
            "train_loss": float(np.mean(self.loss_history[-self.steps_per_epoch :])),
            "train_accuracy": self._check("train", ACCURACY_SAMPLE).accuracy,
        }
        if "val" in self.data.splits:
            val = self._check("val", len(self._train.captions))
            record |= {"val_loss": val.loss, "val_perplexity": val.perplexity, "val_accuracy": val.accuracy}
        if not np.isfinite(record.get("val_loss", 0.0)):
            rate = self._config["learning_rate"]
            self._give_up(
                f"val_loss of epoch {record['epoch']} is {record['val_loss']}, expected a finite number; is the learning rate, now {rate:g}, too high?"
            )
        return record

    def _close(self, record: dict[str, Any], times: dict[str, Any]) -> None:
        """Record a finished epoch, keep its parameters where they are the best, and decay the learning rate."""
        if self._note(record):
            self.best_params = self.model.params.copy()
        self.times.append({"epoch": record["epoch"], **times})
        self._config["learning_rate"] *= self.lr_decay
        self.epoch, self._order, self._untold = record["epoch"], None, True

    def _note(self, record: dict[str, Any]) -> bool:
        """Take the record of an epoch into the history, and say whether that epoch is the best so far."""
        self.history.append(record)
        self.train_acc_history.append(record["train_accuracy"])
        if "val_accuracy" in record:
            self.val_acc_history.append(record["val_accuracy"])
        better = best_of(self.history) is record
        if better:
            self.best_epoch = record["epoch"]
            self.best_val_loss, self.best_val_acc = record.get("val_loss", self.best_val_loss), record.get("val_accuracy", 0.0)
        return better

    def _check(self, split: str, most: int) -> TeacherForced:
        """Score at most `most` captions of a split, spread evenly over it."""
        return teacher_forced(self.model, self._feed, split, spread(len(self.data.split(split).captions), most), between=self._pause)

    def check_accuracy(self, X: Array, y: Array, num_samples: int | None = None, batch_size: int = 100) -> float:
        """Share of the words of captions y (N, T+1) that the model scores highest, given features X (N, D) and the words before.

        Of more than `num_samples` captions so many are looked at, spread evenly: asking does not disturb the order of training.
        """
        rows = spread(len(y), num_samples or len(y))
        scores = [self.model.score(X[rows[i : i + batch_size]], y[rows[i : i + batch_size]]) for i in range(0, len(rows), batch_size)]
        return sum(int(to_numpy(score.correct)) for score in scores) / max(sum(score.tokens for score in scores), 1)


def _host(like: Parameters, flat: Array) -> Parameters:
    """A copy on the host of a flat array that is laid out like `like`."""
    return Parameters(like.shapes, np.array(to_numpy(flat)))


def _check_words(word_to_idx: Mapping[str, int], vocabulary: Vocabulary) -> None:
    """Model and data must mean the same by an id, as far as they share words."""
    for word, i in word_to_idx.items():
        j = vocabulary.word_to_idx.get(word, i)
        if i != j:
            raise DataError(
                f"CaptioningSolver: the model gives {word!r} the id {i} and the data {j}, expected one; was the model made for other data?"
            )
