"""Golden hashes of the library: seeded calls of its public names, and what each result hashes to.

python tools/golden_library.py hashes.json [SUBJECT...]

golden.py runs it as its part `library`, with the checkout to hash on PYTHONPATH. It uses nothing
but names that users import, since it has to serve checkouts whose insides differ. A name in
SUBJECTS is a function that hashes results of one subject. The data of a call are drawn from a
generator that its name seeds, so no call depends on another.

A cell that is added to xpcap.layers.CELLS, or a rule to xpcap.optim.RULES, is hashed too. A case
that the package refuses as impossible, such as attention in a cell without it, is hashed as the
refusal.
"""

import contextlib
import hashlib
import inspect
import io
import itertools
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import xpcap
from xpcap import CaptioningRNN, CaptioningSolver, gradcheck, layers, models, optim, training
from xpcap.memory import Workspace

DTYPES = ("float32", "float64")
IDS = ("int32", "int64")
BATCHES = (1, 25, 200)
LAYOUTS = ("contiguous", "strided", "transposed")
INJECT = ("init", "every-step", "attention", "attention+every-step")
DROPOUT = (0.0, 0.4)


class Sheet:
    """Hashes of results by name."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    def put(self, name: str, result: Any) -> None:
        """Hash an array's dtype, shape and bytes; of a mapping or sequence, each item's."""
        if isinstance(result, Mapping):
            for key, item in result.items():
                self.put(f"{name}.{key}", item)
        elif isinstance(result, tuple | list):
            keys = getattr(result, "_fields", range(len(result)))
            for key, item in zip(keys, result, strict=True):
                self.put(f"{name}.{key}", item)
        elif name in self.hashes:
            raise ValueError(f"two results are called {name}")
        elif isinstance(result, np.ndarray | np.generic):
            array = np.asarray(result)
            self.hashes[name] = digest(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
        elif isinstance(result, bytes):
            self.hashes[name] = digest(result)
        else:
            self.hashes[name] = digest(f"{type(result).__name__} {result!r}".encode())

    def put_named(self, case: str, names: Sequence[str], results: Sequence[Any]) -> None:
        """Hash results under names."""
        for name, result in zip(names, results, strict=True):
            self.put(f"{case}: {name}", result)

    @contextlib.contextmanager
    def refusals(self, case: str) -> Iterator[None]:
        """Hash the class of an OptionError, if the block raises one."""
        try:
            yield
        except xpcap.OptionError as error:
            self.put(f"{case}: refused", type(error).__name__)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


# ---- Arrays

SIZES = {"T": 6, "D": 13, "H": 17, "M": 11, "V": 23, "P": 9, "J": 3, "K": 3}


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values in memory of another order: a column of a larger array, as ``h[:, -1]`` is,
    or a transpose.
    """
    if layout == "strided":
        wider = np.zeros((x.shape[0], 3, *x.shape[1:]), x.dtype)
        wider[:, -1] = x
        return wider[:, -1]
    return np.array(x.T, order="C").T if layout == "transposed" else x


class Draw(NamedTuple):
    """Arrays of one case: drawn by its name, in its dtype and layout."""

    rng: np.random.Generator
    dtype: str
    N: int
    layout: str

    def floats(self, *shape: int) -> np.ndarray:
        values = 0.5 * self.rng.standard_normal(shape)
        return laid_out(values.astype(self.dtype), self.layout)

    def ids(self, *shape: int, dtype: str = "int32") -> np.ndarray:
        """Word ids, some of them equal."""
        values = self.rng.integers(SIZES["V"], size=shape)
        return laid_out(values.astype(dtype), self.layout)


def draws(name: str) -> Iterator[tuple[str, Draw]]:
    """The name of each case of a function, and its arrays."""
    for dtype, N, layout in itertools.product(DTYPES, BATCHES, LAYOUTS):
        case = f"{dtype} N={N} {layout}"
        yield case, Draw(generator(f"{name} {case}"), dtype, N, layout)


# ---- Layers

OPEN = {  # shapes of pairs that take arrays of any number of axes
    "affine": "x:N,2,D w:2D,M b:M -> out:N,M",
    "dropout": "x:N,T,D -> out:N,T,D",
    "word_embedding": "x:N,T=i W:V,D -> out:N,T,D",
}
OTHERS: dict[str, dict[str, dict[str, Any]]] = {  # arguments besides arrays, by a name
    "attention": {cell: {"cell": cell} for cell in layers.CELLS},
    "dropout": {
        "train seed": {"dropout_param": {"p": 0.6, "mode": "train", "seed": 7}},
        "train global stream": {"dropout_param": {"p": 0.3, "mode": "train"}},
        "test": {"dropout_param": {"p": 0.6, "mode": "test"}},
        "p=1": {"dropout_param": {"p": 1.0, "mode": "train", "seed": 7}},
    },
}


def hash_pairs(sheet: Sheet) -> None:
    """Each forward and backward pass, on arrays drawn from the shapes that it states."""
    for name in layers.__all__:
        pair = name.removesuffix("_forward")
        if pair == name or pair.endswith("_rows"):  # hash_loops has these
            continue
        for label, others in OTHERS.get(pair, {"": {}}).items():
            hash_pair(sheet, pair, label, others)


def hash_pair(sheet: Sheet, pair: str, label: str, others: Mapping[str, Any]) -> None:
    """Hash a pair in each form of its arrays, with optional ones and without."""
    spec = getattr(layers, f"{pair}_forward").spec
    spec = type(spec)(OPEN[pair]) if pair in OPEN else spec
    forms = max(len(entry.forms) for entry in spec.entries)
    has_optional = any(entry.optional for entry in spec.entries)
    for form, with_optional in itertools.product(range(forms), {False, has_optional}):
        words = [label, f"form {form}" * (form > 0), "optional" * with_optional]
        name = " ".join([pair, *filter(None, words)])
        for case, draw in draws(name):
            sizes = {**SIZES, "N": draw.N}
            if "cell" in others:
                cell_shapes = layers.CELLS[others["cell"]].shapes(1, sizes["H"])
                (sizes["G"],) = cell_shapes.get("b", (sizes["H"],))
            arguments = {
                entry.name: (draw.ids if entry.kind == "i" else draw.floats)(
                    *entry.forms[min(form, len(entry.forms) - 1)].shape(sizes)
                )
                for entry in spec.entries
                if with_optional or not entry.optional
            }
            case = f"{case}{name.removeprefix(pair)}"
            with sheet.refusals(f"{pair}_forward {case}"):
                hash_passes(sheet, pair, case, draw, **arguments, **others)


def hash_passes(sheet: Sheet, pair: str, case: str, draw: Draw, **arguments: Any) -> None:
    """Hash results of a forward pass, and gradients with all upstream ones and without optional."""
    forward, backward = (getattr(layers, f"{pair}_{way}") for way in ("forward", "backward"))
    np.random.seed(5)
    *results, cache = forward(**arguments)
    names = [entry.name for entry in forward.spec.results][: len(results)]
    sheet.put_named(f"{pair}_forward {case}", names, results)
    known = inspect.signature(backward).parameters
    upstream = {
        f"d{name}": draw.floats(*x.shape)
        for name, x in zip(names, results, strict=True)
        if f"d{name}" in known
    }
    required = {name: x for name, x in upstream.items() if known[name].default is not None}
    floats = [name for name, x in arguments.items() if getattr(x, "dtype", None) == draw.dtype]
    for given in (upstream, required) if required.keys() != upstream.keys() else (upstream,):
        gradients = backward(**given, cache=cache)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        label = " ".join([f"{pair}_backward", case, *given])
        sheet.put_named(label, [f"d{name}" for name in floats], gradients)


def hash_loops(sheet: Sheet) -> None:
    """The loop of each cell, and of a stack, over full sequences and over some that end early."""
    cells = {**layers.CELLS, "stack": layers.stack(*[layers.CELLS["lstm"]] * 2)}
    for (name, cell), full in itertools.product(cells.items(), (True, False)):
        for case, draw in draws(f"loop {name} {full}"):
            N, H = draw.N, SIZES["H"]
            sizes = [N] * 4 if full else [n for n in (N - N // 5, N // 2, N // 2, N // 8) if n]
            rows = layers.PackedSequences.of(sizes, N)
            shapes = cell.shapes(SIZES["D"], H)
            params = {name: draw.floats(*shape) for name, shape in shapes.items()}
            (columns,) = shapes[cell.inputs[1]]
            state0 = tuple(draw.floats(N, H) for _ in cell.states)
            h, cache = cell.rows_forward(draw.floats(sum(sizes), columns), state0, params, rows)
            case = f"{name}_rows {case} {'full' if full else 'packed'}"
            sheet.put(f"{case}: h", h)
            results = cell.rows_backward(draw.floats(*h.shape), cache)
            sheet.put_named(case, ("da", "dstate0", "grads"), results)


def hash_ids_of_either_width(sheet: Sheet) -> None:
    """Words by ids of 64 bits, and the softmax loss of all words, of some, and of none."""
    T = SIZES["T"]
    for case, draw in draws("word_embedding int64"):
        ids, W = draw.ids(draw.N, T, dtype="int64"), draw.floats(SIZES["V"], SIZES["D"])
        hash_passes(sheet, "word_embedding", f"{case} int64", draw, x=ids, W=W)
    for ids, mask in itertools.product(IDS, ("all", "some", "none")):
        for case, draw in draws(f"softmax {ids} {mask}"):
            x = draw.floats(draw.N, T, SIZES["V"])
            x = 30 * x if mask == "some" else x  # confident, wrong words too
            y = draw.ids(draw.N, T, dtype=ids)
            counts = {"all": y >= 0, "some": y % 3 > 0, "none": y < 0}[mask]
            results = layers.temporal_softmax_loss(x, y, laid_out(counts, draw.layout))
            case = f"temporal_softmax_loss {case} {ids} {mask} counted"
            sheet.put_named(case, ("loss", "dx"), results)


def hash_sigmoid(sheet: Sheet) -> None:
    for case, draw in draws("sigmoid"):
        sheet.put(f"sigmoid {case}: out", layers.sigmoid(60 * draw.floats(draw.N, SIZES["H"])))


# ---- Update rules and numeric gradients

OWN_SETTINGS: dict[str, dict[str, float]] = {  # of the course's rules, besides the defaults
    "sgd": {"learning_rate": 0.3},
    "sgd_momentum": {"learning_rate": 0.3, "momentum": 0.5},
    "rmsprop": {"learning_rate": 0.3, "decay_rate": 0.9, "epsilon": 1e-4},
    "adam": {"learning_rate": 0.3, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-4},
}
RULES = list(optim.RULES)


def step_of(rule: str, w: Any, dw: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A step by the course's function, if the rule has one."""
    if rule in OWN_SETTINGS:
        return getattr(optim, rule)(w, dw, config)
    w, config = w.copy(), optim.init(rule, w, config)
    optim.update(rule, w, dw, config)
    return w, config


def hash_rules(sheet: Sheet) -> None:
    """Five steps of each update rule, with and without clipping."""
    for rule in RULES:
        settings = [{}, *([OWN_SETTINGS[rule]] if rule in OWN_SETTINGS else [])]
        for number, clipped in itertools.product(range(len(settings)), (False, True)):
            for case, draw in draws(f"{rule} {number} {clipped}"):
                config, w = dict(settings[number]), draw.floats(draw.N, SIZES["H"])
                for _ in range(5):
                    dw = draw.floats(*w.shape)
                    if clipped:
                        dw = dw.ravel()
                        norm = optim.clip_by_global_norm(dw, 1.5)
                        dw = dw.reshape(w.shape)
                    w, config = step_of(rule, w, dw, config)
                name = f"{rule} {case} {'own' if number else 'default'} settings"
                name += " clipped" if clipped else ""
                sheet.put(f"{name}: w", w)
                sheet.put(f"{name}: config", config)
                if clipped:
                    sheet.put(f"{name}: norm", norm)


def hash_numeric_gradients(sheet: Sheet) -> None:
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        case = f"{dtype} {layout}"
        draw, h = Draw(generator(f"gradcheck {case}"), dtype, 5, layout), 1e-3
        N, D, H = 5, SIZES["D"], SIZES["H"]
        shapes = (N, D), (D, H), (N, H), (H, H), (H,), (N, H)
        x, Wx, h0, Wh, b, dout = (draw.floats(*shape) for shape in shapes)

        def step(x: np.ndarray) -> np.ndarray:
            return layers.rnn_step_forward(x, h0, Wx, Wh, b)[0]  # noqa: B023 - called at once

        def loss(x: np.ndarray) -> np.floating[Any]:
            return (step(x) ** 2).sum()

        by_element = gradcheck.eval_numerical_gradient(loss, x, verbose=False, h=h)
        sheet.put(f"eval_numerical_gradient {case}", by_element)
        by_array = gradcheck.eval_numerical_gradient_array(step, x, dout, h=h)
        sheet.put(f"eval_numerical_gradient_array {case}", by_array)
        sheet.put(f"rel_error {case}", gradcheck.rel_error(by_element, by_array))
        np.random.seed(3)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            gradcheck.grad_check_sparse(loss, x, by_element, 6, h)
        sheet.put(f"grad_check_sparse {case}", printed.getvalue())
        rng = np.random.default_rng(3)
        errors = gradcheck.directional_errors(
            lambda: loss(x),  # noqa: B023 - called at once
            {"x": x},
            {"x": by_element},
            rng,
            directions=4,
            h=h,
        )
        sheet.put(f"directional_errors {case}", json.dumps(errors))


# ---- Models

SPECIAL = ("<NULL>", "<START>", "<END>", "<UNK>")
WORDS = {word: i for i, word in enumerate((*SPECIAL, *(f"word{k}" for k in range(37))))}
NULL, START, END = (WORDS[word] for word in SPECIAL[:3])
LONGEST = 8  # words of a caption, END included


def captions_of(rng: np.random.Generator, N: int, dtype: str = "int32") -> np.ndarray:
    """Captions (N, LONGEST + 1) of all lengths; every fifth has no words: START, END."""
    captions = np.full((N, LONGEST + 1), NULL, dtype)
    captions[:, 0] = START
    for n in range(N):
        words = int(rng.integers(1, LONGEST)) if n % 5 else 0
        captions[n, 1 : words + 1] = rng.integers(len(SPECIAL), len(WORDS), words)
        captions[n, words + 1] = END
    return captions


class Kind(NamedTuple):
    """A kind of model."""

    cell: str
    inject: str
    dropout: float
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.cell} {self.inject} dropout={self.dropout:g} {self.dtype}"

    def of(self, words: Mapping[str, int], shape: Any, seed: int) -> CaptioningRNN:
        """A model of given words and features."""
        dtype = np.dtype(self.dtype)
        options: dict[str, Any] = {"dropout": self.dropout, "inject": self.inject, "seed": seed}
        return CaptioningRNN(words, shape, 11, 18, self.cell, dtype, **options)

    def model(self, seed: int = 1, scale: float = 1.0) -> CaptioningRNN:
        """A model whose weights are the drawn ones times `scale`, with biases that are not zero."""
        shape = (5, 12) if "attention" in self.inject else 14
        model = self.of(WORDS, shape, seed)
        rng = generator(f"model {self.name} {seed}")
        drawn = {name: np.array(model.params[name]) for name in model.params}
        model.params = {
            name: (scale * x + 0.1 * rng.standard_normal(x.shape) * (x.ndim == 1)).astype(x.dtype)
            for name, x in drawn.items()
        }
        return model

    def features(self, rng: np.random.Generator, N: int, layout: str = "contiguous") -> np.ndarray:
        shape = (N, 5, 12) if "attention" in self.inject else (N, 14)
        return laid_out(rng.standard_normal(shape).astype(self.dtype), layout)


def kinds(dropouts: Sequence[float] = DROPOUT) -> Iterator[Kind]:
    for values in itertools.product(layers.CELLS, INJECT, dropouts, DTYPES):
        yield Kind(*values)


def hash_losses(sheet: Sheet) -> None:
    """Loss and gradients of each kind of model, in batches with captions of no words."""
    for kind in kinds():
        with sheet.refusals(f"model {kind.name}"):
            hash_losses_of(sheet, kind)


def hash_losses_of(sheet: Sheet, kind: Kind) -> None:
    rng, model = generator(f"loss {kind.name}"), kind.model()
    sheet.put(f"model {kind.name}: weights", model.params)
    weights = rng.random(25) - 0.3
    batches: dict[str, tuple[int, str, str, dict[str, Any]]] = {
        "N=1 transposed, no words": (1, "transposed", "int32", {"step": 0}),
        "N=25": (25, "contiguous", "int32", {"step": 1}),
        "N=25 strided smoothing": (25, "strided", "int64", {"step": 2, "smoothing": 0.1}),
        "N=25 weights": (25, "contiguous", "int64", {"weights": weights, "total": 7.5}),
        "N=25 shard": (11, "contiguous", "int32", {"shard": np.arange(3, 25, 2), "step": 3}),
        "N=200": (200, "contiguous", "int32", {}),  # the next step
    }
    for name, (n, layout, ids, options) in batches.items():
        features = kind.features(rng, n, layout)
        captions = captions_of(rng, 25 if "shard" in options else n, ids)
        loss, gradients = model.loss(features, captions, **options)
        sheet.put(f"loss {kind.name} {name}: loss", loss)
        sheet.put(f"loss {kind.name} {name}: gradient", gradients)


def hash_scores(sheet: Sheet) -> None:
    """Scores, attention, a trace and single steps of given captions."""
    for kind in kinds((0.0,)):
        with sheet.refusals(f"scores {kind.name}"):
            hash_scores_of(sheet, kind)


def hash_scores_of(sheet: Sheet, kind: Kind) -> None:
    rng, model = generator(f"scores {kind.name}"), kind.model()
    for N in (1, 25, 200):
        features, captions = kind.features(rng, N), captions_of(rng, N)
        case = f"{kind.name} N={N}"
        sheet.put(f"score {case}", model.score(features, captions))
        sheet.put(
            f"word_log_probabilities {case}", model.word_log_probabilities(features, captions)
        )
        if "attention" in kind.inject:
            sheet.put(f"attention {case}", model.attention(features, captions))
    few = slice(7)
    sheet.put(f"trace {kind.name}", model.trace(features[few], captions[few]))
    state = model.start(features[few])
    sheet.put(f"start {kind.name}", state)
    stepper = model.stepper(Workspace.fresh(model.like))
    sheet.put(f"project {kind.name}", stepper.project(captions[few, 1]))
    sheet.put(f"step {kind.name}", model.step(captions[few, 1], state))


# ---- Training

SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"update_rule": "sgd", "optim_config": {"learning_rate": 0.1}},
    "sgd_momentum": {"update_rule": "sgd_momentum", "clip_norm": 1.0, "lr_decay": 0.5},
    "rmsprop": {"update_rule": "rmsprop", "clip_norm": 20.0, "select": "last"},
    "adam": {"update_rule": "adam", "clip_norm": 5.0, "lr_decay": "linear", "select": "cider"},
    "adam replacement": {"update_rule": "adam", "replacement": True, "patience": 1},
}
DEFAULTS: dict[str, Any] = {"batch_size": 40, "num_epochs": 2, "seed": 4, "verbose": False}


def data_for(kind: Kind, scaling: str = "standardize") -> xpcap.CaptionData:
    """Generated pictures, whose features attention reads as a grid of four regions."""
    data = xpcap.generate(seed=3, train=30, val=8)
    if "attention" in kind.inject:
        grids = {}
        for name in ("train", "val"):
            features = np.asarray(data.split(name).features)
            pieces = features[:, : features.shape[1] // 4 * 4].reshape(len(features), 4, -1)
            grids[name] = replace(data.split(name), features=pieces)
        data = replace(data, splits=grids)
    data.scaling = xpcap.fit_scaling(scaling, np.asarray(data.split("train").features))
    return data


def solver_of(kind: Kind, data: xpcap.CaptionData, options: Mapping[str, Any]) -> CaptioningSolver:
    words, shape = data.vocabulary.word_to_idx, data.split("train").features.shape[1:]
    model = kind.of(words, shape if len(shape) > 1 else shape[0], 2)
    return CaptioningSolver(model, data, **{**DEFAULTS, **options})


def hash_solver(sheet: Sheet, case: str, solver: CaptioningSolver) -> None:
    solver.train()
    sheet.put(f"solver {case}: params", solver.model.params)
    sheet.put(f"solver {case}: best", solver.best_params)
    sheet.put(f"solver {case}: losses", json.dumps(solver.loss_history))
    sheet.put(f"solver {case}: history", json.dumps(solver.history, sort_keys=True))
    sheet.put(f"solver {case}: rate", solver.learning_rate)


def hash_solvers(sheet: Sheet) -> None:
    """Steps of the solver: by rule, by kind of model, by objective."""
    for cell, dtype, (name, options) in itertools.product(layers.CELLS, DTYPES, SOLVERS.items()):
        kind = Kind(cell, "init", 0.4, dtype)
        hash_solver(sheet, f"{name} {kind.name}", solver_of(kind, data_for(kind), options))
    for cell, inject in itertools.product(layers.CELLS, ("every-step", "attention+every-step")):
        kind = Kind(cell, inject, 0.4, "float32")
        with sheet.refusals(f"solver {kind.name}"):
            hash_two_stages(sheet, kind)


def hash_two_stages(sheet: Sheet, kind: Kind) -> None:
    """Cross entropy with smoothing, then the score of sampled captions."""
    data = data_for(kind, "none")
    options = {**SOLVERS["adam"], "objective": training.CrossEntropy(0.1), "select": "loss"}
    solver = solver_of(kind, data, options)
    hash_solver(sheet, f"smoothing {kind.name}", solver)
    sheet.put(f"teacher_forced {kind.name}", training.teacher_forced(solver.model, data, "val"))
    training.scale_logits(solver.model.params, 1.5)
    objective = training.SelfCritical(data, samples=3)
    options = {**DEFAULTS, **SOLVERS["adam"], "batch_size": 8, "objective": objective}
    second = CaptioningSolver(solver.model, data, **options)
    hash_solver(sheet, f"self-critical {kind.name}", second)


def hash_course_solver(sheet: Sheet) -> None:
    """The course's form: captions and weights from NumPy's global stream."""
    data = xpcap.to_coco(xpcap.generate(seed=3, train=30, val=8))
    for cell in layers.CELLS:
        np.random.seed(231)
        model = CaptioningRNN(data["word_to_idx"], data["train_features"].shape[1], 11, 18, cell)
        options = {"lr_decay": 0.95, "batch_size": 25, "seed": None, "replacement": True}
        solver = CaptioningSolver(model, data, **{**DEFAULTS, **options}, update_rule="adam")
        hash_solver(sheet, f"course {cell}", solver)
        np.random.seed(231)
        sheet.put(f"sample_coco_minibatch {cell}", xpcap.sample_coco_minibatch(data, 12, "val"))


def hash_states(sheet: Sheet) -> None:
    """A state that is saved after an epoch, loaded and continued, next to the unbroken training."""
    for rule, cell in itertools.product(RULES, layers.CELLS):
        kind, case = Kind(cell, "init", 0.4, "float32"), f"{rule} {cell}"
        data = data_for(kind)
        options = {**SOLVERS.get(rule, {"update_rule": rule}), "num_epochs": 1}
        before, after = solver_of(kind, data, options), solver_of(kind, data, options)
        before.train()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state.safetensors")
            xpcap.save_state(path, before.state())
            sheet.put(f"state {case}: file", path.read_bytes())
            after.restore(xpcap.load_state(path, after.model.params.shapes))
        hash_solver(sheet, f"unbroken {case}", before)
        hash_solver(sheet, f"restored {case}", after)
        if dict_bytes(before.model.params) != dict_bytes(after.model.params):
            raise SystemExit(f"the state of {case} does not continue the training")


def dict_bytes(params: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {name: np.asarray(x).tobytes() for name, x in params.items()}


# ---- Decoding

Table = dict[str, dict[str, Any]]  # options of policies by name
GREEDY: Table = {
    "greedy": {},
    "greedy forbid": {"forbid": (4, 9, 11)},
    "greedy least": {"least_length": 5, "no_stutter": True},
    "greedy trigrams": {"no_repeat_trigram": True},
}
SAMPLING: Table = {
    "sampling": {"temperature": 1.0},
    "sampling cold": {"temperature": 0.6, "seed": 3, "forbid": (4, 9, 11)},
    "sampling top-k": {"temperature": 1.3, "top_k": 5, "seed": 1},
    "sampling top-p": {"temperature": 1.3, "top_p": 0.7, "seed": 2, "least_length": 3},
    "sampling top-k top-p": {"top_k": 12, "top_p": 0.8, "no_repeat_trigram": True},
}
BEAMS: Table = {
    "beam 1": {"width": 1},
    "beam 3": {"width": 3, "length_penalty": 0.7},
    "beam 4 n-best": {"width": 4, "n_best": 4, "length_penalty": 0.0},
    "beam 3 forbid": {"width": 3, "forbid": (4, 9, 11), "least_length": 4, "n_best": 2},
    "beam 3 repeats": {"width": 3, "no_repeat_trigram": True, "no_stutter": True},
    "beam groups": {"width": 6, "groups": 3, "diversity": 0.8, "n_best": 3},
    "beam groups forbid": {"width": 4, "groups": 2, "forbid": (5, 6), "no_stutter": True},
}


def policies() -> dict[str, models.Policy]:
    kinds = ((models.Policy, GREEDY), (models.Sampling, SAMPLING), (models.Beam, BEAMS))
    return {
        name: kind(**{"max_length": 12, **options})
        for kind, table in kinds
        for name, options in table.items()
    }


def hash_decoding(sheet: Sheet) -> None:
    """Captions of each kind of model by each policy."""
    for kind in kinds((0.0,)):
        with sheet.refusals(f"decode {kind.name}"):
            rng, model = generator(f"decode {kind.name}"), kind.model(scale=3.0)
            features = kind.features(rng, 20)
            hash_captions(sheet, kind.name, model, features)
            case = f"{kind.name} N=150"
            many = kind.features(rng, 150, "strided")
            sheet.put(f"decode beam 2 {case}", model.decode(many, models.Beam(2, max_length=9)))
            sheet.put(f"sample {case}", model.sample(many, 9, forbid=(7,)))
            sheet.put(f"sample_with_probabilities {case}", model.sample_with_probabilities(many, 9))


def hash_captions(sheet: Sheet, case: str, model: CaptioningRNN, features: np.ndarray) -> None:
    for name, policy in policies().items():
        sheet.put(f"decode {name} {case}", model.decode(features, policy))
    numbers = np.arange(len(features))[::-1] * 3
    numbered = model.decode(features, models.Sampling(max_length=12), numbers=numbers)
    sheet.put(f"decode numbered {case}", numbered)
    captions = model.sample(features, policy=models.Beam(2, max_length=12))
    text = xpcap.decode_captions(captions, model.idx_to_word)
    sheet.put(f"decode_captions {case}", "\n".join(text))


SUBJECTS: dict[str, tuple[Callable[[Sheet], None], ...]] = {
    "layers": (hash_pairs, hash_loops, hash_ids_of_either_width, hash_sigmoid),
    "rules": (hash_rules, hash_numeric_gradients),
    "models": (hash_losses, hash_scores),
    "training": (hash_solvers, hash_course_solver, hash_states),
    "decoding": (hash_decoding,),
}


def main() -> None:
    path, subjects = Path(sys.argv[1]), sys.argv[2:] or list(SUBJECTS)
    sheet = Sheet()
    with xpcap.use_backend("numpy"):
        for subject in subjects:
            for hash_results in SUBJECTS[subject]:
                hash_results(sheet)
    path.write_text(json.dumps(sheet.hashes))


if __name__ == "__main__":
    main()
