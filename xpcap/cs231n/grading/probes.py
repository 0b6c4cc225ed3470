"""Probes: they observe layers, captioners, update rules and solvers as named arrays.

A probe runs on the submission's functions in the child process and on those of reference/ in the
grader's; judge.py compares the arrays. Each stage of a probe calls the function in another way, so
that state between calls, changed arguments and hard-coded sizes show as differences. This file
imports only NumPy and solves nothing of the exercise, since submissions can read it.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Case = Mapping[str, np.ndarray]  # arguments by name
NUMBERS = "fiub"  # kinds of dtypes that are numbers
MAX_BYTES = 2**21  # of an array
CAPTIONS = 12  # of the solver's data
BATCH = 4
UPSTREAM = "upstream "  # prefix of upstream gradients in a case, which also has forward arguments
MAX_EVENTS = 20_000  # calls and returns that are counted
MAX_FORWARDS = 200  # a backward pass with more forward passes takes finite differences
PARAMETERS = ("W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab")


class Record:
    """Observations: arrays by ``stage.name``, and notes by stage.

    described : makes the note of an error; without it, as for the reference, errors are raised
    """

    def __init__(self, described: Callable[[BaseException], dict[str, Any]] | None = None) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self._described = described

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a stage; an error ends it and is noted."""
        try:
            with np.errstate(all="ignore"):  # even if the submission turned warnings into errors
                yield
        except MemoryError:
            raise
        except BaseException as error:  # includes SystemExit
            if self._described is None:
                raise
            self.notes.setdefault(name, {})["error"] = self._described(error)

    def results(self, stage: str, names: Sequence[str], returned: Any) -> tuple[Any, ...]:
        """Record a function's results under `names`; for a single name, any value but a tuple."""
        several = isinstance(returned, tuple) or (isinstance(returned, list) and len(names) > 1)
        values = tuple(returned) if several else (returned,)
        if len(values) != len(names):
            self.notes.setdefault(stage, {})["count"] = len(values)
            if values and all(value is None for value in values):
                self.notes[stage]["none"] = True
            return values
        for name, value in zip(names, values, strict=True):
            if name != "cache":
                self.value(stage, name, value)
        return values

    def value(self, stage: str, name: str, value: Any) -> None:
        """Record an array, or the type of a value that is not an array."""
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if value is None:
            self.notes.setdefault(stage, {})["none"] = True
        elif array.dtype.kind not in NUMBERS:
            self.notes.setdefault(stage, {}).setdefault("types", {})[name] = type(value).__name__
        elif array.nbytes > MAX_BYTES:
            got = f"an array of shape {array.shape}"
            self.notes.setdefault(stage, {}).setdefault("types", {})[name] = got
        else:
            self.arrays[f"{stage}.{name}"] = np.array(array)

    def all(self, stage: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.value(stage, name, value)


def copied(case: Case) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in case.items()}


def split_case(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Copies of a case's forward arguments, and of its upstream gradients."""
    inputs = {name: array for name, array in copied(case).items() if not name.startswith(UPSTREAM)}
    upstream = {name: np.array(array) for name, array in case.items() if name not in inputs}
    return inputs, {name.removeprefix(UPSTREAM): array for name, array in upstream.items()}


# Layers


def forward(call: Callable[..., Any], names: Sequence[str], cases: Any, record: Record) -> None:
    """Probe a layer's forward pass. `names` are its results; "cache", if any, is the last.

    Cases: "first"; "second" with the same sizes and "other" with different ones; a "single" sample;
    for some layers also "long" sequences, "large" and "far" numbers, "square" sizes, "empty" cells.
    """
    defaults = _defaults(call)
    with record.stage("out"):
        arguments = copied(cases["first"])
        values = record.results("out", names, call(*arguments.values()))
        record.all("after", arguments)
        record.notes["shared"] = {"names": _shared(names, values, arguments)}
        with record.stage("kept"):
            record.results("second", names, call(*copied(cases["second"]).values()))
            record.results("kept", names, values)
    for stage, case in {**cases, "again": cases["first"]}.items():
        if stage not in ("first", "second"):
            with record.stage(stage):
                record.results(stage, names, call(*copied(case).values()))
    if changed := [name for name, before in defaults.items() if _defaults(call)[name] != before]:
        record.notes["defaults"] = {"names": changed}


def backward(
    passes: Sequence[Callable[..., Any]], names: Sequence[str], cases: Any, record: Record
) -> None:
    """Probe a layer's backward pass, on caches of its own forward pass.

    A case has the forward pass's arguments and upstream gradients; see `split_case`.
    """
    forward_pass, backward_pass = passes
    calls = [0]

    def cache(case: Case) -> Any:
        return forward_pass(*split_case(case)[0].values())[-1]

    def upstream(case: Case) -> dict[str, np.ndarray]:
        return split_case(case)[1]

    with record.stage("cache"):
        cache(cases["first"])
    if "cache" in record.notes:
        return
    with record.stage("out"):
        arguments = upstream(cases["first"])
        first_cache = cache(cases["first"])
        with _counted(forward_pass, calls, record):
            grads = backward_pass(*arguments.values(), first_cache)
            values = record.results("out", names, grads)
        record.notes["calls"] = {"count": calls[0]}
        record.all("after", arguments)
        if calls[0] > MAX_FORWARDS:
            return
        with record.stage("kept"):
            backward_pass(*upstream(cases["second"]).values(), cache(cases["second"]))
            record.results("kept", names, values)
    with record.stage("older"):
        first_cache = cache(cases["first"])
        later_cache = cache(cases["second"])
        later = backward_pass(*upstream(cases["second"]).values(), later_cache)
        record.results("later", names, later)
        older = backward_pass(*upstream(cases["first"]).values(), first_cache)
        record.results("older", names, older)
    for stage, case in {**cases, "again": cases["first"]}.items():
        if stage not in ("first", "second"):
            with record.stage(stage):
                values = backward_pass(*upstream(case).values(), cache(case))
                record.results(stage, names, values)


@contextlib.contextmanager
def _counted(function: Callable[..., Any], calls: list[int], record: Record) -> Iterator[None]:
    """Count calls of a student's function while a block runs, and note complex arguments."""
    code = getattr(function, "__code__", None)
    events = itertools.count()

    def count(frame: Any, event: str, _: Any) -> None:
        calls[0] += event == "call" and frame.f_code is code
        if event == "call" and any(map(_is_complex, frame.f_locals.values())):
            record.notes["complex"] = {"count": 1}
        if next(events) > MAX_EVENTS:  # counting must not slow down an endless loop
            sys.setprofile(before)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or (isinstance(value, np.ndarray) and value.dtype.kind == "c")


def _defaults(call: Callable[..., Any]) -> dict[str, str]:
    """Mutable default arguments, described by type and length."""
    code = getattr(call, "__code__", None)
    values = getattr(call, "__defaults__", None) or ()
    names = code.co_varnames[: code.co_argcount][-len(values) :] if code and values else ()
    return {
        name: f"{type(value).__name__} of {len(value)}"
        for name, value in zip(names, values, strict=False)
        if isinstance(value, list | dict | set)
    }


def _shared(names: Sequence[str], values: Sequence[Any], arguments: Case) -> list[str]:
    """Results that share memory with arguments."""
    return [
        name
        for name, value in zip(names, values, strict=False)
        if type(value) is np.ndarray
        and any(np.may_share_memory(value, array) for array in arguments.values())
    ]


# Captioner


def captioner(model_class: Callable[..., Any], case: Any, parameters: bool = True) -> Any:
    """A CaptioningRNN in float64, with the case's parameters."""
    words = {str(word): index for index, word in enumerate(case["vocabulary"])}
    D, W, H, lstm = map(int, case["sizes"])
    model = model_class(
        words,
        input_dim=D,
        wordvec_dim=W,
        hidden_dim=H,
        cell_type="lstm" if lstm else "rnn",
        dtype=np.float64,
    )
    if parameters:
        for name in PARAMETERS:
            model.params[name] = np.array(case[name])
    return model


def captioner_loss(
    model_class: Callable[..., Any], names: Sequence[str], cases: Any, record: Record
) -> None:
    """Probe CaptioningRNN.loss: the loss and all gradients, of fresh and of used models."""
    first = cases["first"]
    second = cases["second"]
    with record.stage("shapes"):
        for name, value in captioner(model_class, first, parameters=False).params.items():
            if name in PARAMETERS:
                record.value("shapes", name, np.array(np.shape(value)))
    with record.stage("out"):
        model = captioner(model_class, first)
        data = copied(_data(first))
        returned = _losses("out", record, model.loss(*data.values()))
        record.all("after", data)
        record.all("parameters", {name: model.params[name] for name in PARAMETERS})
        with record.stage("kept"):
            _losses("used", record, model.loss(*copied(_data(second)).values()))
            _losses("kept", record, returned)
        with record.stage("again"):
            _losses("again", record, model.loss(*copied(_data(first)).values()))
    for stage, case in cases.items():
        if stage not in ("first", "second"):
            with record.stage(stage):
                model = captioner(model_class, case)
                _losses(stage, record, model.loss(*copied(_data(case)).values()))


def _data(case: Any) -> Case:
    return {name: case[name] for name in ("features", "captions")}


def _losses(stage: str, record: Record, returned: Any) -> Any:
    """Record a loss and its gradients, and the names of missing gradients."""
    values = returned if isinstance(returned, tuple | list) else (returned,)
    if len(values) != 2 or not isinstance(values[1], dict):
        record.notes.setdefault(stage, {})["count"] = len(values)
        if values[0] is None:
            record.notes[stage]["none"] = True
        return returned
    loss, grads = values
    record.value(stage, "loss", loss)
    if missing := [name for name in PARAMETERS if name not in grads]:
        record.notes.setdefault(stage, {})["missing"] = missing
    for name in PARAMETERS:
        if name in grads:
            record.value(stage, f"d{name}", grads[name])
    return returned


def captioner_sample(
    model_class: Callable[..., Any], names: Sequence[str], cases: Any, record: Record
) -> None:
    """Probe greedy CaptioningRNN.sample, of fresh and of used models."""

    def sampled(stage: str, model: Any, case: Any) -> Any:
        length = int(case["length"][0])
        captions = model.sample(np.array(case["features"]), max_length=length)
        record.results(stage, names, captions)
        return captions

    first = cases["first"]
    second = cases["second"]
    with record.stage("out"):
        model = captioner(model_class, first)
        captions = sampled("out", model, first)
        record.all("parameters", {name: model.params[name] for name in PARAMETERS})
        with record.stage("kept"):
            sampled("used", model, second)
            record.results("kept", names, captions)
        with record.stage("again"):
            with contextlib.suppress(Exception):  # the probe of the loss judges errors
                model.loss(*copied(_data(second)).values())
            for name in PARAMETERS:
                model.params[name] = np.array(first[name])
            sampled("again", model, first)
    for stage, case in cases.items():
        if stage not in ("first", "second"):
            with record.stage(stage):
                sampled(stage, captioner(model_class, case), case)


# Update rules and solver


def rule(call: Callable[..., Any], names: Sequence[str], cases: Any, record: Record) -> None:
    """Probe an update rule: how far the weights have moved after each step."""
    for stage, case in {"out": cases["first"], **cases, "again": cases["first"]}.items():
        if stage in ("first", "second"):
            continue
        with record.stage(stage):
            start = np.array(case["w"])
            # No sum of other constants equals these values, so a mistake cannot cancel out
            w = np.array(start)
            config = {"learning_rate": 0.037, "epsilon": 0.13}
            for step, gradient in enumerate(case["gradients"], 1):
                w, config = call(w, np.array(gradient), config)
                moved = None if w is None else np.asarray(w) - start
                record.value(stage, f"the weights after step {step}", moved)


class _QuadraticModel:
    """A model for solvers, whose loss is half of the sum of squares of its parameters.

    It counts captions that are paired with the features of another picture.
    """

    def __init__(self, case: Any) -> None:
        self.params = {"a": np.array(case["a"]), "b": np.array(case["b"])}
        self.mismatched, self.batches = 0, 0

    def loss(self, features: Any, captions: Any) -> Any:
        self.batches += len(captions) == BATCH == len(features)
        self.mismatched += int((np.asarray(captions)[:, 1] % 5 != np.asarray(features)[:, 0]).sum())
        loss = 0.5 * sum(float((value**2).sum()) for value in self.params.values())
        return loss, {name: np.array(value) for name, value in self.params.items()}


def solver(
    solver_class: Callable[..., Any], names: Sequence[str], cases: Any, record: Record
) -> None:
    """Probe CaptioningSolver: losses, parameters and counts of training by sgd, then by adam."""
    sgd_options = {"update_rule": "sgd", "lr_decay": 0.5, "num_epochs": 3}
    adam_options = {"update_rule": "adam", "num_epochs": 2}
    for stage, options in (("out", sgd_options), ("adam", adam_options)):
        with record.stage(stage):
            np.random.seed(0)
            model = _QuadraticModel(cases["first"])
            trained = solver_class(
                model,
                _pictures(),
                batch_size=BATCH,
                verbose=False,
                optim_config={"learning_rate": 0.1},
                **options,
            )
            trained.train()
            record.value(stage, "loss_history", [float(loss) for loss in trained.loss_history])
            record.all(stage, {f"params {name}": value for name, value in model.params.items()})
            record.value(stage, "batches", model.batches)
            record.value(stage, "captions of other pictures", model.mismatched)


def _pictures() -> dict[str, Any]:
    """Data for a solver; a caption's second word identifies its picture."""
    numbers = np.arange(CAPTIONS)
    return {
        "train_captions": np.stack([np.ones(CAPTIONS, int), numbers + 5, numbers * 0], axis=1),
        "train_image_idxs": numbers % 5,
        "train_features": np.arange(5.0)[:, None] * np.ones((1, 3)),
        "train_urls": np.array([f"picture {k}" for k in range(5)]),
        # Pairs of captions and other pictures, which show if a solver trains on them
        "val_captions": np.stack([np.ones(2, int), numbers[:2] + 5, numbers[:2] * 0], axis=1),
        "val_image_idxs": 1 - numbers[:2],
        "val_features": np.arange(2.0)[:, None] * np.ones((1, 3)),
        "val_urls": np.array(["picture 0", "picture 1"]),
        "idx_to_word": ["<NULL>", "<START>", "<END>"],
        "word_to_idx": {"<NULL>": 0, "<START>": 1, "<END>": 2},
    }


PROBES = {
    probe.__name__: probe
    for probe in (forward, backward, captioner_loss, captioner_sample, rule, solver)
}
