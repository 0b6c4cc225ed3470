"""Probes: what is observed of a function, a captioner, a rule and a solver, as named arrays.

A probe runs in the process of the submission on its functions, and in the grader's own on those of
reference/; judge.py compares the two. Each stage of a probe is a use of the function, so that what
it keeps between calls, changes in its arguments or has written in shows as an array that differs.
Only NumPy is imported here, and nothing of the exercise is solved.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Case = Mapping[str, np.ndarray]  # arguments by name
NUMBERS = "fiub"  # kinds of dtypes that are numbers
MOST_BYTES = 2**21  # of one array
CAPTIONS, BATCH = 12, 4  # of the solver's data, and of its minibatches
UPSTREAM = "upstream "  # begins the names of upstream gradients, beside a forward pass's arguments
EVENTS = 20_000  # calls and returns that are looked at
MANY = 200  # forward passes in one backward pass: finite differences, slow in their first use
PARAMETERS = ("W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab")


class Record:
    """Observations: arrays by ``stage.name``, and by stage notes of what is no array.

    described : the note of an error; without it errors are raised, as of the reference
    """

    def __init__(self, described: Callable[[BaseException], dict[str, Any]] | None = None) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self._described = described

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A use of the function; an error ends it and is noted."""
        try:
            with np.errstate(all="ignore"):  # also where the submission made errors of them
                yield
        except MemoryError:
            raise
        except BaseException as error:  # also SystemExit and the like
            if self._described is None:
                raise
            self.notes.setdefault(name, {})["error"] = self._described(error)

    def results(self, stage: str, names: Sequence[str], returned: Any) -> tuple[Any, ...]:
        """Note what a function returned as `names`; of a lone name any value but a tuple."""
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
        """Note one array, or the type of what is none."""
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if value is None:
            self.notes.setdefault(stage, {})["none"] = True
        elif array.dtype.kind not in NUMBERS:
            self.notes.setdefault(stage, {}).setdefault("types", {})[name] = type(value).__name__
        elif array.nbytes > MOST_BYTES:
            got = f"an array of shape {array.shape}"
            self.notes.setdefault(stage, {}).setdefault("types", {})[name] = got
        else:
            self.arrays[f"{stage}.{name}"] = np.array(array)

    def all(self, stage: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.value(stage, name, value)


def copied(case: Case) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in case.items()}


def parted(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Copies of a forward pass's arguments, and of the upstream gradients, of a case."""
    inputs = {name: one for name, one in copied(case).items() if not name.startswith(UPSTREAM)}
    upstream = {name: np.array(one) for name, one in case.items() if name not in inputs}
    return inputs, {name.removeprefix(UPSTREAM): one for name, one in upstream.items()}


# Layers


def forward(call: Callable[..., Any], names: Sequence[str], cases: Any, record: Record) -> None:
    """A layer's forward pass. `names` are its results, with "cache" at the end if it has one.

    Cases "first", "second" of the same sizes, "other" of others, a "single" sample; also, where
    there are such, "long" sequences, "large" and "far" numbers, "square" sizes and "empty" cells.
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
    """A layer's backward pass, on caches of its own forward pass.

    A case has the forward pass's arguments and upstream gradients; see `parted`.
    """
    there, back = passes
    calls = [0]

    def cache(case: Case) -> Any:
        return there(*parted(case)[0].values())[-1]

    def upstream(case: Case) -> dict[str, np.ndarray]:
        return parted(case)[1]

    with record.stage("cache"):
        cache(cases["first"])
    if "cache" in record.notes:
        return
    with record.stage("out"):
        arguments = upstream(cases["first"])
        kept = cache(cases["first"])
        with _counted(there, calls, record):
            values = record.results("out", names, back(*arguments.values(), kept))
        record.notes["calls"] = {"count": calls[0]}
        record.all("after", arguments)
        if calls[0] > MANY:
            return
        with record.stage("kept"):
            back(*upstream(cases["second"]).values(), cache(cases["second"]))
            record.results("kept", names, values)
    with record.stage("older"):
        older = cache(cases["first"])
        later = cache(cases["second"])
        record.results("later", names, back(*upstream(cases["second"]).values(), later))
        record.results("older", names, back(*upstream(cases["first"]).values(), older))
    for stage, case in {**cases, "again": cases["first"]}.items():
        if stage not in ("first", "second"):
            with record.stage(stage):
                values = back(*upstream(case).values(), cache(case))
                record.results(stage, names, values)


@contextlib.contextmanager
def _counted(function: Callable[..., Any], calls: list[int], record: Record) -> Iterator[None]:
    """Count calls of a function of the student's while a block runs, and note complex arguments."""
    code = getattr(function, "__code__", None)
    events = itertools.count()

    def count(frame: Any, event: str, _: Any) -> None:
        calls[0] += event == "call" and frame.f_code is code
        if event == "call" and any(map(_is_complex, frame.f_locals.values())):
            record.notes["complex"] = {"count": 1}
        if next(events) > EVENTS:  # an endless loop is told by its own lines
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
    """Default arguments that hold something, as text."""
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
        and any(np.may_share_memory(value, one) for one in arguments.values())
    ]


# Captioner


def captioner(made: Callable[..., Any], case: Any, parameters: bool = True) -> Any:
    """A CaptioningRNN in float64 with given parameters."""
    words = {str(word): index for index, word in enumerate(case["vocabulary"])}
    D, W, H, lstm = map(int, case["sizes"])
    model = made(
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
    made: Callable[..., Any], names: Sequence[str], cases: Any, record: Record
) -> None:
    """CaptioningRNN.loss: loss, then a gradient for each parameter; on fresh and on used models."""
    first, second = cases["first"], cases["second"]
    with record.stage("shapes"):
        for name, value in captioner(made, first, parameters=False).params.items():
            if name in PARAMETERS:
                record.value("shapes", name, np.array(np.shape(value)))
    with record.stage("out"):
        model, data = captioner(made, first), copied(_data(first))
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
                _losses(stage, record, captioner(made, case).loss(*copied(_data(case)).values()))


def _data(case: Any) -> Case:
    return {name: case[name] for name in ("features", "captions")}


def _losses(stage: str, record: Record, returned: Any) -> Any:
    """Note a loss and its gradients; a missing one is noted by name."""
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
    made: Callable[..., Any], names: Sequence[str], cases: Any, record: Record
) -> None:
    """CaptioningRNN.sample, greedy; on fresh and on used models, for captions that end and do not."""

    def sampled(stage: str, model: Any, case: Any) -> Any:
        length = int(case["length"][0])
        captions = model.sample(np.array(case["features"]), max_length=length)
        record.results(stage, names, captions)
        return captions

    first, second = cases["first"], cases["second"]
    with record.stage("out"):
        model = captioner(made, first)
        captions = sampled("out", model, first)
        record.all("parameters", {name: model.params[name] for name in PARAMETERS})
        with record.stage("kept"):
            sampled("used", model, second)
            record.results("kept", names, captions)
        with record.stage("again"):
            with contextlib.suppress(Exception):  # judged by the probe of the loss
                model.loss(*copied(_data(second)).values())
            for name in PARAMETERS:
                model.params[name] = np.array(first[name])
            sampled("again", model, first)
    for stage, case in cases.items():
        if stage not in ("first", "second"):
            with record.stage(stage):
                sampled(stage, captioner(made, case), case)


# Update rules and solver


def rule(call: Callable[..., Any], names: Sequence[str], cases: Any, record: Record) -> None:
    """An update rule: how far the weights have moved after each of some steps."""
    for stage, case in {"out": cases["first"], **cases, "again": cases["first"]}.items():
        if stage in ("first", "second"):
            continue
        with record.stage(stage):
            start = np.array(case["w"])
            w, config = (
                np.array(start),
                {"learning_rate": 0.037, "epsilon": 0.13},
            )  # no sum of others
            for step, gradient in enumerate(case["gradients"], 1):
                w, config = call(w, np.array(gradient), config)
                moved = None if w is None else np.asarray(w) - start
                record.value(stage, f"the weights after step {step}", moved)


class _Bowl:
    """A model for solvers: its loss is half of the sum of squares of its parameters.

    It counts captions that come with the features of another picture.
    """

    def __init__(self, case: Any) -> None:
        self.params = {"a": np.array(case["a"]), "b": np.array(case["b"])}
        self.mismatched, self.batches = 0, 0

    def loss(self, features: Any, captions: Any) -> Any:
        self.batches += len(captions) == BATCH == len(features)
        self.mismatched += int((np.asarray(captions)[:, 1] % 5 != np.asarray(features)[:, 0]).sum())
        loss = 0.5 * sum(float((value**2).sum()) for value in self.params.values())
        return loss, {name: np.array(value) for name, value in self.params.items()}


def solver(made: Callable[..., Any], names: Sequence[str], cases: Any, record: Record) -> None:
    """CaptioningSolver: losses, parameters and counts after it trained `_Bowl`, by sgd, then adam."""
    options = {"update_rule": "sgd", "lr_decay": 0.5, "num_epochs": 3}
    for stage, more in (("out", options), ("adam", {"update_rule": "adam", "num_epochs": 2})):
        with record.stage(stage):
            np.random.seed(0)
            model = _Bowl(cases["first"])
            trained = made(
                model,
                _pictures(),
                batch_size=BATCH,
                verbose=False,
                optim_config={"learning_rate": 0.1},
                **more,
            )
            trained.train()
            record.value(stage, "loss_history", [float(loss) for loss in trained.loss_history])
            record.all(stage, {f"params {name}": value for name, value in model.params.items()})
            record.value(stage, "batches", model.batches)
            record.value(stage, "captions of other pictures", model.mismatched)


def _pictures() -> dict[str, Any]:
    """Data of a solver, in which a caption's second word tells its picture."""
    numbers = np.arange(CAPTIONS)
    return {
        "train_captions": np.stack([np.ones(CAPTIONS, int), numbers + 5, numbers * 0], axis=1),
        "train_image_idxs": numbers % 5,
        "train_features": np.arange(5.0)[:, None] * np.ones((1, 3)),
        "train_urls": np.array([f"picture {k}" for k in range(5)]),
        # of other pictures, to count
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
