"""The contract of an update rule: what the optimizer and the solver rely on.

::

    from xpcap.testing import check_update_rule
    check_update_rule(adafactor)

checks all claims for a rule.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from xpcap import optim
from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.data.synthetic import draw_data
from xpcap.models import CaptioningRNN, Parameters
from xpcap.optim import UpdateRule
from xpcap.runs.folder import load_state, save_state
from xpcap.testing.claims import check, check_close, fail
from xpcap.training import CaptioningSolver, Watcher
from xpcap.training.optimizer import LINEAR, Optimizer

SHAPES = {"W": (3, 4), "b": (5,), "gain": (), "A": (2, 3, 2)}
GRADIENTS = (1.0, 1e3, 0.0, 1e-8)  # scales of gradients, by step
RATE = np.float64(0.1)  # a float64 rate must not turn a float32 w into float64


# ---- The objects of claims


class Trial(NamedTuple):
    """A rule."""

    rule: UpdateRule

    def __str__(self) -> str:
        return f"rule {self.rule.name!r}"

    def parameters(self, dtype: Any = np.float64) -> tuple[Parameters, list[Parameters]]:
        """Parameters of SHAPES, and gradients with the scales of GRADIENTS."""
        rng = np.random.default_rng(0)
        size = sum(int(np.prod(shape)) for shape in SHAPES.values())
        draws = (scale * rng.standard_normal(size) for scale in (1, *GRADIENTS))
        params, *grads = (Parameters(SHAPES, asarray(x, dtype=dtype)) for x in draws)
        return params, grads

    def optimized(self) -> tuple[Parameters, Optimizer]:
        """Parameters after an optimizer's step on each gradient, and the optimizer."""
        params, grads = self.parameters()
        optimizer = Optimizer(self.rule, {}, params)
        for dw in grads:
            optimizer.update(params, dw)
        return params, optimizer

    def solver(self, lr_decay: float | str, *watchers: Watcher) -> CaptioningSolver:
        """A solver with two steps per epoch."""
        data = draw_data(12, 6, 20, seed=0)
        words = data.vocabulary.word_to_idx
        model = CaptioningRNN(words, 6, 5, 7, "lstm", seed=0)
        options: dict[str, Any] = {"batch_size": 7, "num_epochs": 3, "seed": 0, "verbose": False}
        options |= {"clip_norm": 5.0, "lr_decay": lr_decay, "watchers": watchers}
        return CaptioningSolver(model, data, update_rule=self.rule, **options)


class _Saver(Watcher):
    """Saves the state after the first step of the second epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def step(self, solver: CaptioningSolver) -> None:
        if solver.iteration == solver.steps_per_epoch + 1:
            save_state(self._path, solver.state())


Claim = Callable[[Trial], None]


# ---- The claims


def writes_stated(trial: Trial) -> None:
    """A step writes to all of w and of its state, and to ``t``, but to nothing else."""
    rule = trial.rule
    numbers = rule.complete({"learning_rate": RATE})
    counted = numbers | ({"t": 1} if "t" in numbers else {})
    for dtype in (np.float32, np.float64):
        params, (grads, *_) = trial.parameters(dtype)
        for name, shape in SHAPES.items():
            w = params[name].copy()
            dw = grads[name].copy()
            config = optim.init(rule, w, {"learning_rate": RATE})
            state = {key: config[key] for key in rule.state_shapes(shape)}
            rule.step([(w, dw, state)], config)
            thing = f"w {shape} of {np.dtype(dtype)}"
            if not np.array_equal(to_numpy(dw), to_numpy(grads[name])):
                fail(f"dw of {thing}", "has changed", "unchanged gradients")
            if not (to_numpy(w) != to_numpy(params[name])).all():
                fail(thing, "has elements that did not change", "a step of each, in place")
            settings = {key: x for key, x in config.items() if key not in state}
            if settings != counted:
                fail(f"config of {thing}", f"has become {settings}", counted)
            optim.update(rule, w, dw, config)  # it fails if the state's dtype is not that of w
            for key in state:
                if not to_numpy(config[key]).any():
                    expected = f"the rule to write to it: state[{key!r}][...] = ..."
                    fail(f"state {key!r} of {thing}", "is all zeros after two steps", expected)


def descends(trial: Trial) -> None:
    """Steps at the default rate reduce a quadratic loss, whose gradient is w."""
    params, _ = trial.parameters()
    for name, w in params.items():
        first = float((w * w).sum())
        config = optim.init(trial.rule, w)
        for _ in range(50):
            optim.update(trial.rule, w, w.copy(), config)
        if not (last := float((w * w).sum())) < first:
            got = f"goes from {first:.3g} to {last:.3g}"
            fail(f"loss of w {SHAPES[name]}", got, "a smaller loss")


def parameters_apart(trial: Trial) -> None:
    """An optimizer with several parameters takes the same steps as the rule takes on each."""
    params, optimizer = trial.optimized()
    expected, grads = trial.parameters()
    for name, w in expected.items():
        config = optim.init(trial.rule, w)
        for dw in grads:
            optim.update(trial.rule, w, dw[name], config)
        reference = "that of the single parameter"
        check_close(f"{name} of several", params[name], w, reference, 1e-12)
        for key, x in optimizer.state_of(name).items():
            check_close(f"state {key!r} of {name}", x, config[key], reference, 1e-12)


def finite(trial: Trial) -> None:
    """After gradients of zeros, as of a word that does not occur, everything is finite."""
    params, _ = trial.parameters()
    for name, w in params.items():
        config = optim.init(trial.rule, w)
        for _ in range(3):
            optim.update(trial.rule, w, get_array_module(w).zeros_like(w), config)
        for key, x in {"w": w, **config}.items():
            if not np.isfinite(to_numpy(asarray(x))).all():
                thing = f"{key} of parameter {name}, after gradients of zeros,"
                fail(thing, f"is {x}", "finite numbers")


def squares_positive(trial: Trial) -> None:
    """State that the rule lists in `squares` is never negative; files with negative are refused."""
    _, optimizer = trial.optimized()
    for key in trial.rule.squares:
        if (minimum := float(optimizer.state[key].flat.min())) < 0:
            expected = "no negative number, since `squares` lists it"
            fail(f"state {key!r}", f"goes down to {minimum}", expected)


def resumes(trial: Trial) -> None:
    """Training that resumes from a file ends with the same bits."""
    with TemporaryDirectory() as folder:
        early = Path(folder, "early")
        last = Path(folder, "last")
        for lr_decay in (0.5, LINEAR):

            def outcome(solver: CaptioningSolver) -> tuple[Array, bytes]:
                solver.train()
                save_state(last, solver.state())
                return solver.model.params.flat, last.read_bytes()

            unbroken = trial.solver(lr_decay, _Saver(early))
            resumed = trial.solver(lr_decay)
            expected, file = outcome(unbroken)
            state = load_state(early, unbroken.model.params.shapes, rule=trial.rule)
            resumed.restore(state)
            params, again = outcome(resumed)
            thing = f"a training with lr_decay {lr_decay!r}, resumed,"
            check_close(f"parameters of {thing}", params, expected, "those without a stop")
            if again != file:
                fail(f"state of {thing}", "differs", "the bits of training without a stop")


UPDATE_RULE: tuple[Claim, ...] = (
    writes_stated,
    descends,
    parameters_apart,
    finite,
    squares_positive,
    resumes,
)


def check_update_rule(rule: str | UpdateRule, contract: Iterable[Claim] = UPDATE_RULE) -> None:
    """Check the contract of an update rule with optimizer and solver, on the current backend.

    Parameters
    ----------
    rule : str or UpdateRule
        A name in xpcap.optim.RULES, or a rule.
    contract : iterable of callable
        Claims of UPDATE_RULE to check.

    Raises
    ------
    ContractError
        A claim does not hold. The error names the rule, the array, and what was expected. Other
        errors of the rule are passed on, with a note of rule and claim.
    OptionError
        The name is unknown.

    Examples
    --------
    >>> check_update_rule("adam")
    """
    check(Trial(optim.as_rule(rule)), contract)
