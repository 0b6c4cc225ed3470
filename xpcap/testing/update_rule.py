"""The contract of an update rule: what optimizer and solver rely on.

::

    from xpcap.testing import check_update_rule
    check_update_rule(adafactor)

holds a rule to all of it.
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
from xpcap.runs import load_state, save_state
from xpcap.testing.claims import check, check_close, fail
from xpcap.training import CaptioningSolver, Watcher
from xpcap.training.optimizer import LINEAR, Optimizer

SHAPES = {"W": (3, 4), "b": (5,), "gain": (), "A": (2, 3, 2)}
GRADIENTS = (1.0, 1e3, 0.0, 1e-8)  # sizes of gradients, step by step
RATE = np.float64(0.1)  # in place of which a float32 w must not become float64


# ---- What claims are about


class Trial(NamedTuple):
    """A rule."""

    rule: UpdateRule

    def __str__(self) -> str:
        return f"rule {self.rule.name!r}"

    def parameters(self, dtype: Any = np.float64) -> tuple[Parameters, list[Parameters]]:
        """Parameters of SHAPES, and gradients of the sizes of GRADIENTS."""
        rng = np.random.default_rng(0)
        size = sum(int(np.prod(shape)) for shape in SHAPES.values())
        draws = (scale * rng.standard_normal(size) for scale in (1, *GRADIENTS))
        params, *grads = (Parameters(SHAPES, asarray(x, dtype=dtype)) for x in draws)
        return params, grads

    def optimized(self) -> tuple[Parameters, Optimizer]:
        """Parameters after a step of an optimizer on each gradient, and the optimizer."""
        params, grads = self.parameters()
        optimizer = Optimizer(self.rule, {}, params)
        for dw in grads:
            optimizer.update(params, dw)
        return params, optimizer

    def solver(self, lr_decay: float | str, *watchers: Watcher) -> CaptioningSolver:
        """A training of two steps an epoch."""
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
    """A step writes to w, to its arrays of state, and to ``t``."""
    rule = trial.rule
    numbers = rule.complete({"learning_rate": RATE})
    counted = numbers | ({"t": 1} if "t" in numbers else {})
    for dtype in (np.float32, np.float64):
        params, (grads, *_) = trial.parameters(dtype)
        for name, shape in SHAPES.items():
            w, dw = params[name].copy(), grads[name].copy()
            config = optim.init(rule, w, {"learning_rate": RATE})
            state = {key: config[key] for key in rule.state_shapes(shape)}
            rule.step([(w, dw, state)], config)
            thing = f"w {shape} of {np.dtype(dtype)}"
            if not np.array_equal(to_numpy(dw), to_numpy(grads[name])):
                fail(f"dw of {thing}", "has changed", "no gradient to be written to")
            if not (to_numpy(w) != to_numpy(params[name])).all():
                fail(thing, "keeps some of its elements", "a step of each, in place")
            now = {key: x for key, x in config.items() if key not in state}
            if now != counted:
                fail(f"config of {thing}", f"has become {now}", counted)
            optim.update(rule, w, dw, config)  # which takes state of the dtype of w alone
            for key in state:
                if not to_numpy(config[key]).any():
                    wanted = f"the rule to write to it: state[{key!r}][...] = ..."
                    fail(f"state {key!r} of {thing}", "is all zeros after two steps", wanted)


def descends(trial: Trial) -> None:
    """Steps at the default rate lead into a bowl, whose gradient is w."""
    params, _ = trial.parameters()
    for name, w in params.items():
        first, config = float((w * w).sum()), optim.init(trial.rule, w)
        for _ in range(50):
            optim.update(trial.rule, w, w.copy(), config)
        if not (last := float((w * w).sum())) < first:
            fail(f"loss of w {SHAPES[name]}", f"goes from {first:.3g} to {last:.3g}", "less")


def parameters_apart(trial: Trial) -> None:
    """An optimizer of several parameters takes the steps of the rule on each."""
    params, optimizer = trial.optimized()
    expected, grads = trial.parameters()
    for name, w in expected.items():
        config = optim.init(trial.rule, w)
        for dw in grads:
            optim.update(trial.rule, w, dw[name], config)
        reference = "that of the parameter alone"
        check_close(f"{name} of several", params[name], w, reference, 1e-12)
        for key, x in optimizer.state_of(name).items():
            check_close(f"state {key!r} of {name}", x, config[key], reference, 1e-12)


def finite(trial: Trial) -> None:
    """A gradient of zeros, such as that of a word that does not occur, leaves all finite."""
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
    """State that the rule lists under `squares` is never negative; a file with other is refused."""
    _, optimizer = trial.optimized()
    for key in trial.rule.squares:
        if (least := float(optimizer.state[key].flat.min())) < 0:
            fail(f"state {key!r}", f"goes down to {least}", "no negative number, as of `squares`")


def resumes(trial: Trial) -> None:
    """A training goes on from a file to the same bits."""
    with TemporaryDirectory() as folder:
        early, last = Path(folder, "early"), Path(folder, "last")
        for lr_decay in (0.5, LINEAR):

            def outcome(solver: CaptioningSolver) -> tuple[Array, bytes]:
                solver.train()
                save_state(last, solver.state())
                return solver.model.params.flat, last.read_bytes()

            unbroken, resumed = trial.solver(lr_decay, _Saver(early)), trial.solver(lr_decay)
            expected, file = outcome(unbroken)
            state = load_state(early, unbroken.model.params.shapes, rule=trial.rule)
            resumed.restore(state)
            params, again = outcome(resumed)
            thing = f"a training with lr_decay {lr_decay!r}, resumed,"
            check_close(f"parameters of {thing}", params, expected, "those of the whole")
            if again != file:
                fail(f"state of {thing}", "differs", "the bits of the whole")


UPDATE_RULE: tuple[Claim, ...] = (
    writes_stated,
    descends,
    parameters_apart,
    finite,
    squares_positive,
    resumes,
)


def check_update_rule(rule: str | UpdateRule, contract: Iterable[Claim] = UPDATE_RULE) -> None:
    """Check the contract of an update rule with optimizer and solver.

    The backend in use does the work.

    Parameters
    ----------
    rule : str or UpdateRule
        A name in xpcap.optim.RULES, or a rule.
    contract : iterable of callable
        Claims, of UPDATE_RULE.

    Raises
    ------
    ContractError
        A claim does not hold. It names the rule, the array, and what was expected. An error of the
        rule itself goes through, with a note of rule and claim.
    OptionError
        The name is unknown.
    """
    check("check_update_rule", Trial(optim.as_rule(rule)), contract)
