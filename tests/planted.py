"""Plant mistakes that GPU paths are known for, one at a time in a copy, and show that tests without a card catch each: python tests/planted.py"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
COPIED = ("xpcap", "tests", "pyproject.toml")
AT_ONCE = 2
LONGEST = 120  # characters of a failure in the table
RUN = "import sys, xpcap; assert xpcap.__file__.startswith(sys.argv.pop(1)), xpcap.__file__; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


class Mistake(NamedTuple):
    """In `file`, `old` becomes `new` wherever it stands, which is `count` times; `test` then fails with a message that holds `says`."""

    name: str
    kind: str
    file: str
    old: str
    new: str
    test: str
    says: str
    count: int = 1

    def plant(self, root: Path) -> None:
        """Make it in the copy of the project at `root`."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.old)
        assert found == self.count, f"{self.name}: {self.old!r} stands {found} times in {self.file}, expected {self.count}; was the line changed?"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()


class Result(NamedTuple):
    """What pytest says of one test: "passed", "failed", "error" or "skipped", and why."""

    outcome: str
    why: str


class Attempt(NamedTuple):
    """A mistake that was planted: whether its test caught it, and what was said."""

    mistake: Mistake
    caught: bool
    said: str


_STEP = "test_emulated_step.py::test_emulated_"
STEP = _STEP + "step_reads_nothing_and_launches_little[lstm-0.0-whole]"
STEP_WITH_DROPOUT = _STEP + "step_reads_nothing_and_launches_little[lstm-0.3-whole]"
TIME_STEP = _STEP + "time_step_is_one_kernel_and_one_product_each_way"
LAUNCHES = _STEP + "step_launches_so_many_beside_its_time_steps[lstm-0.3-40]"
TRAINING = _STEP + "training_equals_numpy[lstm-float32]"
EPOCH_READS = _STEP + "epoch_reads_its_losses_once"
EPOCH_SENDS = _STEP + "epoch_sends_features_once_and_then_index_vectors_and_masks"
FEATURES = _STEP + "features_live_on_the_device_where_they_fit"
NOT_FINITE = _STEP + "step_that_is_not_finite_is_found_before_anything_is_kept"
SAME_BITS = _STEP + "device_gets_equal_bits_twice"
WORKSPACE = _STEP + "workspace_changes_no_bit[lstm]"
SECOND_DEVICE = _STEP + "second_device_computes_where_it_was_asked_for"
SAMPLING = _STEP + "sampling_says_what_numpy_says"
SAVED = _STEP + "parameters_are_saved_as_they_are"
NO_KERNEL = "test_emulated_kernels.py::test_emulated_plain_equations_run_where_no_kernel_fits"
ANY_ORDER = "test_twin.py::test_twin_equals_the_equations_in_any_order_and_stays_inside_its_arrays[softmax_loss-float]"


def kernel(op: str, dtype: str = "float32") -> str:
    return f"test_emulated_kernels.py::test_emulated_kernel_equals_the_plain_equations[{dtype}-{op}]"


OPS, LSTM = "xpcap/ops.py", "xpcap/layers/lstm.py"
MODEL, PACKING, DECODING = (f"xpcap/models/{name}.py" for name in ("captioning_rnn", "packing", "decoding"))
SOLVER, WATCH, FEED, BACKEND = "xpcap/training/solver.py", "xpcap/training/watch.py", "xpcap/data/feed.py", "xpcap/backend.py"
CUDA, KERNELS = "xpcap/kernels/cuda.py", "xpcap/kernels/"

# fmt: off
MISTAKES = [
    # What NumPy takes and CuPy does not

    Mistake("np-for-xp", "np. for xp. in the mathematics", MODEL,
            'xp.dot(x.T, dh0, out=grads["W_proj"])',
            'np.dot(x.T, dh0, out=grads["W_proj"])',
            STEP, "numpy.dot was called on a device array"),
    Mistake("np-for-new", "np. for xp. where an array is made", MODEL,
            'xp.zeros_like(h0), params["Wh"]',
            'np.zeros(h0.shape, h0.dtype), params["Wh"]',
            STEP, "c0 is a numpy array and a a cupy array"),
    Mistake("host-mask", "dropout masks are drawn on the host and not sent", MODEL,
            "return [Masks(*send_joined(masks, like=self.params.flat)) for masks in drawn]",
            "return [Masks(*masks) for masks in drawn]",
            STEP_WITH_DROPOUT, "mask is a numpy.ndarray, expected a device array"),
    Mistake("host-index", "an index vector stays on the host and is used on the device", PACKING,
            "past=None if past is None else rest.pop(0)",
            "past=past",
            STEP, "got numpy and cupy arrays together"),
    Mistake("host-index-in-sampling", "the captions that go on are picked by an index on the host", DECODING,
            "rows = asarray(going.astype(np.int32), like=state[0])",
            "rows = going",
            SAMPLING, "getitem by index: got a numpy.ndarray"),
    Mistake("device-into-host", "words chosen on the device are put into a host array unread", DECODING,
            "captions[alive, t] = said = to_numpy(words)",
            "captions[alive, t] = said = words",
            SAMPLING, "Implicit conversion to a NumPy array is not allowed"),
    Mistake("device-into-file", "a checkpoint is written from device arrays", "xpcap/runs/folder.py",
            "{name: to_numpy(x) for name, x in params.items()}",
            "{name: x for name, x in params.items()}",
            SAVED, "Implicit conversion to a NumPy array is not allowed"),
    Mistake("keyword", "a keyword that CuPy lacks", OPS,
            "scores.max(axis=-1, keepdims=True)",
            "scores.max(axis=-1, keepdims=True, initial=-xp.inf)",
            TRAINING, "unexpected keyword argument 'initial'"),
    Mistake("function", "a function that CuPy lacks", OPS,
            "xp.sqrt(xp.vdot(wide, wide))",
            "xp.sqrt(xp.vecdot(wide, wide))",
            kernel("global_norm"), "module 'cupy' has no attribute 'vecdot'"),

    # Waiting for the device

    Mistake("boolean-index", "a boolean index in the step, whose size the host waits for", MODEL,
            "return nll.sum() * scale",
            "return nll[batch.packed.targets != self._null].sum() * scale",
            STEP, "Read(how='boolean index'"),
    Mistake("nonzero", "nonzero on the device, whose size the host waits for", MODEL,
            "right = right + (scores.argmax(axis=1) == targets[rows]).sum()",
            "right = right + (scores.argmax(axis=1) == targets[rows]).nonzero()[0].size",
            EPOCH_READS, "'captioning_rnn.py': 2"),
    Mistake("if", "an if on a number on the device", "xpcap/optim.py",
            "    clip_to_norm(grads, norm,",
            "    if norm > max_norm:\n        clip_to_norm(grads, norm,",
            STEP, "Read(how='bool'"),
    Mistake("float", "float() of a number on the device", SOLVER,
            "        return loss, norm\n",
            "        self.last_norm = float(norm)\n        return loss, norm\n",
            STEP, "Read(how='float'"),
    Mistake("print", "a loss printed while looking for something, and the line left in", SOLVER,
            "        return loss, norm\n",
            "        say(f'loss {loss:.4f}')\n        return loss, norm\n",
            STEP, "Read(how='format'"),
    Mistake("read-each-step", "each loss is read when it is made", SOLVER,
            "if self._record.full:",
            "if len(self._record):",
            EPOCH_READS, "'record.py': 2"),
    Mistake("synchronize", "a synchronisation left in after timing something", WATCH,
            "        self._unread += 1\n",
            "        get_array_module(loss).cuda.Device().synchronize()\n        self._unread += 1\n",
            STEP, "Wait(how='Device.synchronize'"),
    Mistake("unread", "an epoch is kept although nobody looked whether its steps were finite", SOLVER,
            'the epoch that has just been trained."""\n        self._check_finite()\n',
            'the epoch that has just been trained."""\n',
            NOT_FINITE, "CaptioningSolver: val_loss of epoch 1 is nan"),

    # Launches and transfers that nobody needs

    Mistake("stacked", "losses are stacked where one kernel notes them", WATCH,
            "record_step(self._record, self._unread, loss, norm)",
            "self._record[1 + self._unread] = get_array_module(loss).stack([loss, norm])",
            LAUNCHES, "106 launches"),
    Mistake("copy-in-the-loop", "a copy in the time loop", LSTM,
            "lstm_gates(a[rows], r,",
            "lstm_gates(a[rows].copy(), r,",
            TIME_STEP, "'copy copy': 1"),
    Mistake("product-without-out", "a product in the time loop into memory of its own, and copied", LSTM,
            "times_transpose(da[rows], Wh, dh_next[:n], new)",
            "dh_next[:n] = da[rows] @ Wh.T",
            TIME_STEP, "'copy setitem': 1"),
    Mistake("copy-beside-the-loop", "an astype that changes nothing, and copies", MODEL,
            "hidden = apply_mask(h, masks.hidden, keep)",
            "hidden = apply_mask(h, masks.hidden, keep).astype(self.dtype)",
            LAUNCHES, "105 launches"),
    Mistake("one-by-one", "each index vector is sent by itself", PACKING,
            "    ends = np.cumsum([part.size for part in parts]).tolist()\n",
            "    return [asarray(part, like=like) for part in parts]\n    ends = np.cumsum([part.size for part in parts]).tolist()\n",
            STEP, "assert 7 == 1"),
    Mistake("features-by-the-batch", "features are sent with each batch although they are on the device", SOLVER,
            'self._feed.minibatch("train", rows)',
            'self.data.minibatch("train", rows)',
            EPOCH_SENDS, "'captioning_rnn.py': 2"),
    Mistake("features-beyond-memory", "features may take all memory, and none is left to compute with", FEED,
            "> SHARE * free",
            "> free",
            FEATURES, "assert not True"),

    # Indices

    Mistake("ids-from-one", "ids counted from 1, so that the last one is V, which CuPy wraps", MODEL,
            'params["W_embed"][packed.words], masks',
            'params["W_embed"][packed.words + 1], masks',
            STEP, "index 40 is out of bounds"),
    Mistake("past-the-end", "a kernel takes one row too many, the last time beyond the array", KERNELS + "segment_sum.cu",
            "j < end",
            "j <= end",
            kernel("segment_sum"), "Not equal to tolerance"),
    Mistake("before-the-start", "targets counted from 1 in a kernel: target 0 is read before the row", KERNELS + "softmax_loss.cu",
            "target = targets[blockIdx.x];",
            "target = targets[blockIdx.x] - 1;",
            kernel("softmax_loss"), "Not equal to tolerance"),
    Mistake("duplicates", "rows added by an index that names some of them twice: one addition of each is left", MODEL,
            'dwords = segment_sum(da, packed.inputs, out=new("dwords", (len(vectors), da.shape[1])))',
            "dwords = xp.zeros((len(vectors), da.shape[1]), da.dtype)\n        dwords[packed.inputs.ids] += da",
            STEP, "duplicate indices in an assignment"),
    Mistake("atomics", "rows added by atomics, in another order each time", MODEL,
            'dwords = segment_sum(da, packed.inputs, out=new("dwords", (len(vectors), da.shape[1])))',
            "dwords = xp.zeros((len(vectors), da.shape[1]), da.dtype)\n        xp.add.at(dwords, packed.inputs.ids, da)",
            SAME_BITS, "assert b'"),

    # Memory

    Mistake("rows-not-zeroed", "rows without a target keep what was in memory", MODEL,
            "            dh_rows[...] = 0\n",
            "",
            TRAINING, "gradient of norm nan"),
    Mistake("state-not-zeroed", "the last step starts its gradient from what was in memory", LSTM,
            "dh_next[...], dc[...] = 0, 0",
            "dc[...] = 0",
            TRAINING, "gradient of norm nan"),
    Mistake("buffer-used-twice", "one buffer for two things, after a line was copied", MODEL,
            'out=new("projected",',
            'out=new("h0",',
            WORKSPACE, "assert array("),
    Mistake("strides", "a view with strides for a kernel, which gets a bare pointer", CUDA,
            "a.dtype == first.dtype and a.flags.c_contiguous for a",
            "a.dtype == first.dtype for a",
            NO_KERNEL, "expected C-contiguous rows"),
    Mistake("default-device", "the number of a device is checked and forgotten", BACKEND,
            'return f"cupy:{device}" if device else "cupy"',
            'return "cupy"',
            SECOND_DEVICE, "assert [0, 0, 0] == [1, 1, 1]"),
    Mistake("kernel-of-another-device", "a kernel is loaded once, and not once a device", CUDA,
            "like.device.id, file",
            "0, file",
            SECOND_DEVICE, "was loaded on device 0"),

    # Launching kernels

    Mistake("python-int", "a Python int, which CuPy passes as 64 bits, where a kernel takes 32", CUDA,
            "groups.starts, out, np.int32(C)",
            "groups.starts, out, C",
            kernel("segment_sum"), "C is int 33, expected a NumPy scalar of int32"),
    Mistake("blocks-rounded-down", "blocks are rounded down, and the tail is not computed", CUDA,
            "return -(-n // THREADS)",
            "return max(1, n // THREADS)",
            kernel("adam_update"), "Not equal to tolerance"),
    Mistake("grid-turned", "the axes of a grid change places", CUDA,
            "(count, _blocks(C))",
            "(_blocks(C), count)",
            kernel("segment_sum"), "Not equal to tolerance"),
    Mistake("macro", "float64 arrays for a kernel compiled for float", CUDA,
            '"float64": "double"',
            '"float64": "float"',
            kernel("adam_update", "float64"), "expected an array of float32"),
    Mistake("partial-sums", "a buffer of floats where a kernel writes doubles", CUDA,
            "xp.empty(NORM_BLOCKS, np.float64)",
            "xp.empty(NORM_BLOCKS, x.dtype)",
            kernel("global_norm"), "expected an array of float64"),

    # Inside kernels

    Mistake("gates-transposed", "gates stacked i, f, g, o, as other libraries have them", KERNELS + "lstm_gates.cu",
            "at_o = at_f + H, at_g = at_o + H",
            "at_g = at_f + H, at_o = at_g + H",
            kernel("lstm_gates"), "Not equal to tolerance", 2),
    Mistake("gradient-forgotten", "the gradient from the step after is forgotten", KERNELS + "lstm_gates.cu",
            "dh_all = dh[k] + dh_next[k];",
            "dh_all = dh[k];",
            kernel("lstm_gates_backward"), "Not equal to tolerance"),
    Mistake("guard", "threads of the last block that have no number write beyond the array", KERNELS + "dropout.cu",
            "    if (k >= n) return;\n",
            "",
            kernel("drop"), "wrote outside out"),
    Mistake("barrier-between-uses", "no barrier before shared memory is used for something else", KERNELS + "softmax_loss.cu",
            "    __syncthreads();  // all have read",
            "    // all have read",
            kernel("softmax_loss"), "Not equal to tolerance"),
    Mistake("barrier-before-the-tree", "no barrier before the sums of a block's threads meet", KERNELS + "norm.cu",
            "    sums[thread] = sum;\n    __syncthreads();\n",
            "    sums[thread] = sum;\n",
            kernel("global_norm"), "Not equal to tolerance"),
    Mistake("read-after-write", "a score is read after another thread may have put its gradient there", KERNELS + "softmax_loss.cu",
            "most - target_score",
            "most - scores[row + target]",
            ANY_ORDER, "the result depends on the order of the threads"),
    Mistake("flag", "the flag for what is not finite is never set", KERNELS + "record.cu",
            "    if (!finite) record[0] = 0;\n",
            "",
            NOT_FINITE, "CaptioningSolver: val_loss of epoch 1 is nan"),
]
# fmt: on


def prepare(folder: Path) -> Path:
    """A copy of what the tests need, in `folder`."""
    base = folder.resolve() / "base"
    base.mkdir()
    for path in (ROOT / name for name in COPIED):
        if path.is_dir():
            shutil.copytree(path, base / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, base)
    return base


def run(root: Path, tests: Iterable[str]) -> list[Result]:
    """Run tests of the project at `root` in a process of their own, up to the first that fails. Another xpcap that is installed is not met."""
    report = root / "report.xml"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))} | {"PYTHONPATH": str(root)}
    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "verbosity_assertions=2", f"--basetemp={root / 'temporary'}", f"--junit-xml={report}"]
    command = [sys.executable, "-c", RUN, f"{root}{os.sep}", *options, *(f"tests/{test}" for test in tests)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    results = [_result(case) for case in ElementTree.parse(report).iter("testcase")] if report.exists() else []
    return results or [Result("error", f"no test ran: {done.stdout}{done.stderr}")]


def _result(case: ElementTree.Element) -> Result:
    for kind, outcome in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
        if (found := case.find(kind)) is not None:
            return Result(outcome, " ".join(found.get("message", "").split()))
    return Result("passed", "")


def check(base: Path, mistakes: Sequence[Mistake]) -> None:
    """AssertionError : without a mistake, one of the tests does not run and pass. The compiled files that this leaves serve the copies."""
    tests = sorted({mistake.test for mistake in mistakes})
    results = run(base, tests)
    assert results == [Result("passed", "")] * len(tests), [result for result in results if result.outcome != "passed"]


def attempt(base: Path, mistake: Mistake) -> Attempt:
    """Plant a mistake in a copy of `base`, and run the test that is to catch it."""
    root = base.parent / mistake.name
    shutil.copytree(base, root)
    mistake.plant(root)
    result = run(root, [mistake.test])[0]
    shutil.rmtree(root)
    return Attempt(mistake, result.outcome == "failed" and mistake.says in result.why, f"{result.outcome} {result.why}".strip())


def attempts(base: Path, mistakes: Sequence[Mistake]) -> Iterator[Attempt]:
    """All of them, in order, some at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda mistake: attempt(base, mistake), mistakes)


def row(tried: Attempt) -> str:
    """A line of the table."""
    said = tried.said.removeprefix("failed ")
    said = said if len(said) <= LONGEST else said[: LONGEST - 3] + "..."
    cells = tried.mistake.kind, f"`{tried.mistake.file}`", f"`{tried.mistake.test.split('::')[1]}`", f"``{said}``" if tried.caught else "NOT CAUGHT"
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    slipped = []
    with tempfile.TemporaryDirectory(prefix="xpcap-planted-") as folder:
        base = prepare(Path(folder))
        check(base, MISTAKES)
        print("| mistake | where | caught by | how |\n| --- | --- | --- | --- |")
        for tried in attempts(base, MISTAKES):
            print(row(tried), flush=True)
            if not tried.caught:
                slipped.append(f"{tried.mistake.name}: expected a failure of {tried.mistake.test} with {tried.mistake.says!r}, got: {tried.said}")
    sys.exit("\n\n".join(slipped) or 0)


if __name__ == "__main__":
    main()
