"""Mutants of GPU code, and the tests that must catch them; see test_device_mutants.py.

No mutation tool makes them. mutmut 3.8 leaves decorated functions alone, which is every forward and
backward pass. cosmic-ray 8.7 swaps operators and starts pytest anew for each; of a sample of 24 it
caught a third by a wrong number, the rest by a TypeError, at import, or by running out of time.
Neither takes host arrays for device arrays, waits for the device or addresses a wrong row.

Functions and tests are named without their files, and Python is matched by its shape, so that
moving or formatting code breaks nothing here. python tools/excerpts.py writes the table of
docs/develop/testing-without-a-gpu.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from patterns import in_cuda, in_python


@dataclass(frozen=True)
class Mutant:
    """Code that replaces the match of a pattern in a function of the package; see patterns.py.

    `test` must then fail with a message that contains `says`.
    """

    name: str
    kind: str
    function: str
    pattern: str
    instead: str
    test: str
    says: str = "Not equal to tolerance"
    suffix: ClassVar[str] = ".py"

    def change(self, text: str) -> tuple[str, int]:
        return in_python(text, self.function, self.pattern, self.instead)

    def mutated(self, root: Path) -> tuple[Path, str]:
        """The file of the project at `root` that it changes, and the changed text."""
        found = []
        for path in sorted((root / "xpcap").rglob(f"*{self.suffix}")):
            before = path.read_text(encoding="utf-8")
            after, count = self.change(before)
            assert count == 0 or after != before, f"{self.name}: nothing is changed"
            found += [(path, after)] * count
        code = f"{self.pattern!r} in a function {self.function}"
        assert len(found) == 1, f"{self.name}: found {len(found)} times, expected once: {code}"
        return found[0]

    def apply(self, root: Path) -> None:
        """Change that file."""
        path, text = self.mutated(root)
        path.write_text(text, encoding="utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()


@dataclass(frozen=True)
class KernelMutant(Mutant):
    """A mutant in CUDA C, where the pattern is a regular expression."""

    nth: int | None = None  # match to replace, from 0; None: all
    suffix: ClassVar[str] = ".cu*"  # with gates.cuh

    def change(self, text: str) -> tuple[str, int]:
        return in_cuda(text, self.function, self.pattern, self.instead, self.nth)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """A table of the mutants for the docs: its heading, then its rows."""
    yield "mutant", "where", "caught by", "which says"
    for mutant in MUTANTS:
        test = mutant.test.rpartition("::")[2]
        yield mutant.kind, f"`{mutant.function}`", f"`{test}`", f"`{mutant.says}`"


_STEP = "test_emulated_"
STEP = _STEP + "step_reads_nothing_and_launches_little[lstm-0.0-whole]"
STEP_WITH_DROPOUT = _STEP + "step_reads_nothing_and_launches_little[lstm-0.3-whole]"
TIME_STEP = _STEP + "time_step_is_one_kernel_and_one_product_each_way"
LAUNCHES = _STEP + "step_launches_little_beside_its_time_steps[lstm-0.3]"
RANKS = "test_group.py::test_ranks_train_the_model_that_one_process_trains[lstm-float64]"
TRAINING = _STEP + "training_equals_numpy[lstm-float32]"
TRAINING_RNN = _STEP + "training_equals_numpy[rnn-float32]"
EPOCH_READS = _STEP + "epoch_reads_its_losses_once"
EPOCH_SENDS = _STEP + "epoch_sends_features_once_and_then_index_vectors"
FEATURES = _STEP + "features_live_on_the_device_where_they_fit"
NOT_FINITE = _STEP + "step_that_is_not_finite_is_found_before_anything_is_kept"
SAME_BITS = _STEP + "device_gets_equal_bits_twice"
WORKSPACE = _STEP + "workspace_changes_no_bit[lstm]"
SECOND_DEVICE = _STEP + "second_device_computes_where_it_was_asked_for"
SAMPLING = _STEP + "sampling_says_what_numpy_says"
LATE = "test_emulated_words_are_read_once_the_next_step_is_launched"
SAVED = _STEP + "parameters_are_saved_as_they_are"
BEAM = "test_beam_finds_what_the_reference_beam_finds[5-0.7]"
NO_MEMORY = _STEP + "step_takes_no_memory_from_the_pool[lstm-0.3-whole]"
LOOP = "test_emulated_steps_forward_touch_their_own_rows[rnn]"
NO_STEP = "test_emulated_steps_that_no_sequence_reaches_launch_nothing[lstm-sizes2]"
KEPT = "test_emulated_row_products_keep_the_memory_of_their_arrays"
ALONE = "test_cell_keeps_the_contract[rnn-rows_alone]"
SECOND_BLOCK = "test_vocabulary_loss_is_its_three_layers_and_holds_a_block_of_scores[emulated-6-2]"
MANY_REGIONS = (
    "test_emulated_attention_runs_the_plain_equations_where_a_picture_has_too_many_places"
)
NO_SUCH_WORD = "test_emulated_loss_of_a_target_outside_the_vocabulary_is_nan[2147483647-float32]"
NO_PROBABILITY = "test_emulated_draw_is_no_word_of_probability_0[None-float32]"
OTHER_WORK = "test_emulated_record_serves_the_work_that_came_last"
HANDLES = "test_emulated_lists_and_graphs_of_a_stream_multiply_in_one_memory"
TURNS = "test_emulated_thread_waits_while_another_captures_or_multiplies"
_GRAPH = "test_emulated_graph_that_is_not_right_is_not_used"
VIEW = _STEP + "array_that_no_kernel_takes_is_named_with_its_parameter[view]"
_ANY_ORDER = "test_emulated_kernel_gives_the_same_bits_in_any_order_of_threads"
ANY_ORDER, ATTENTION_ORDER = (
    f"{_ANY_ORDER}[float32-{op}]" for op in ("softmax_loss", "attend_steps")
)


ZEROS = (
    "$out = get_array_module($rows).zeros(($groups.starts.size - 1, $rows.shape[1]), $rows.dtype)"
)


def kernel(op: str, dtype: str = "float32") -> str:
    return f"test_emulated_kernel_equals_the_plain_equations[{dtype}-{op}]"


# fmt: off
MUTANTS = [
    # Accepted by NumPy, not by CuPy
    Mutant("np-for-xp", "np. for xp. in the mathematics",
        "image_backward", '$here(..., out=grads["W_proj"])', "__import__('numpy').dot",
        STEP, "numpy.dot was called on a device array"),
    Mutant("np-for-new", "np. for xp. where an array is made",
        "Cell.initial", "xp.zeros_like($h)", "__import__('numpy').zeros($h.shape, $h.dtype)",
        SAMPLING, "is a numpy.ndarray, expected a C-contiguous array"),
    Mutant("host-numbers", "row numbers of dropout masks are uploaded, and those on the host used",
        "prepare_batch", "[$more for $first, ($second, *$more) in $sent]", "mask_rows",
        STEP_WITH_DROPOUT, "is a numpy.ndarray, expected a C-contiguous array"),
    Mutant("host-index", "an index vector stays on the host and is used on the device",
        "Part.on_device",
        "self._replace(rows=$r, words=$here, inputs=$i, target_rows=$k, targets=$t, indices=None)",
        "self.words",
        STEP, "is a numpy.ndarray, expected a C-contiguous array"),
    Mutant("host-index-in-sampling", "the captions that go on are picked by an index on the host",
        "_decode", "$rows = $buffer.upload($name, $going.astype(np.int32))", "$rows = $going",
        SAMPLING, "getitem by index: got a numpy.ndarray"),
    Mutant("device-into-host",
        "words on the device are put into a host array without a copy to the host",
        "AsyncCopy.__init__", "isinstance($x, np.ndarray)", "True",
        SAMPLING, "getitem by index: got a numpy.ndarray"),
    Mutant("device-into-file", "a checkpoint is written from device arrays",
        "save_parameters", "to_numpy($x)", "$x",
        SAVED, "Implicit conversion to a NumPy array is not allowed"),
    Mutant("keyword", "a keyword that CuPy lacks",
        "score", "$log_p.sum(dtype=np.float64)", "$log_p.sum(dtype=np.float64, initial=0)",
        TRAINING, "unexpected keyword argument 'initial'"),
    Mutant("function", "a function that CuPy lacks",
        "global_norm", "xp.vdot", "xp.vecdot",
        kernel("global_norm"), "module 'cupy' has no attribute 'vecdot'"),
    # Waiting for the device
    Mutant("boolean-index", "a boolean index in the step, whose size the host waits for",
        "_gradients", "self._ops.weighted_sum($here, $part.terms.scale, ...)",
        "$here[$part.targets != 0]",
        STEP, "Read(how='boolean index'"),
    Mutant("nonzero", "nonzero on the device, whose size the host waits for",
        "score", "($hits == $targets).sum()", "($hits == $targets).nonzero()[0].size",
        EPOCH_READS, "'network.py': 2"),
    Mutant("if", "an if on a number on the device",
        "clip_by_global_norm", "return norm", "return norm if norm > 0 else norm",
        STEP, "Read(how='bool'"),
    Mutant("float", "float() of a number on the device",
        "CaptioningSolver._step", "return $loss, $norm",
        "self.last_norm = float($norm)\nreturn $loss, $norm",
        STEP, "Read(how='float'"),
    Mutant("print", "a loss printed while looking for something, and the line left in",
        "CaptioningSolver._step", "return $loss, $norm",
        "print(f'loss {$loss:.4f}')\nreturn $loss, $norm",
        STEP, "Read(how='format'"),
    Mutant("read-each-step", "each loss is read in its own step",
        "LossBuffer.add", "self.full", "self._unread",
        EPOCH_READS, "'losses.py': 2"),
    Mutant("synchronize", "a synchronisation left in after timing something",
        "LossBuffer.add", "self._unread += 1",
        "get_array_module(loss).cuda.Device().synchronize()\nself._unread += 1",
        STEP, "Wait(how='Device.synchronize'"),
    Mutant("wait-in-sampling", "the host reads the words of a step before it launches the next one",
        "_decode", "len(unread) > behind", "unread",
        LATE, "assert 'SWSWSWSWSW'"),
    Mutant("read-too-early", "words are read while their copy to the host is under way",
        "AsyncCopy.wait", "$event.synchronize()", "None",
        SAMPLING, "Arrays are not equal"),
    Mutant("unread", "an epoch is recorded without a check that its losses are finite",
        "CaptioningSolver._evaluate_epoch", "self._require_finite()", "None",
        NOT_FINITE, "CaptioningSolver: val_loss of epoch 1 is nan"),
    # Needless launches and transfers
    Mutant("stacked", "losses are stacked, although one kernel can record them",
        "LossBuffer.add", "get_ops($ops).record_step($record, $i, $loss, $norm)",
        "$record[1 + $i] = get_array_module($loss).stack([$loss, $norm])",
        LAUNCHES, "launches beside the time steps"),
    Mutant("copy-in-the-loop", "a copy in the time loop",
        "forward_loop", "step_fn($step)", "a[$step.rows] = a[$step.rows].copy()\nstep_fn($step)",
        TIME_STEP, "'copy copy': 1"),
    Mutant("product-without-out",
        "a product in the time loop allocates its result, which is then copied",
        "backward_steps", "multiply($step.first, 0, $step.n)",
        "dh[: $step.n] = grads.dr[$step.rows] @ Wh.T",
        TIME_STEP, "'copy setitem': 1"),
    Mutant("copy-beside-the-loop", "an astype to the same dtype, which copies",
        "forward", "ops.gather(contiguous($here), part.target_rows, ...)",
        "$here.astype($here.dtype)",
        LAUNCHES, "launches beside the time steps"),
    Mutant("one-by-one", "one transfer for each index vector",
        "send", 'joined = buffer.upload("indices", $all)',
        "joined = [buffer.upload(f'indices {k}', x) for k, x in enumerate(given)] and"
        " buffer.upload('indices', $all)",
        STEP, "Wait(how='Event.synchronize'"),
    Mutant("features-by-the-batch",
        "features are uploaded with each batch although they are on the device",
        "CaptioningSolver._train_batch", "$feed.minibatch($split, $rows, $views, $shard)",
        "Batch(*self.data.minibatch($split, $rows))",
        EPOCH_SENDS, "'models': 6"),
    Mutant("features-beyond-memory", "features may take all memory, and none is left for training",
        "BatchLoader._send", "SHARE * $free", "$free",
        FEATURES, "assert not True"),
    # Indices
    Mutant("ids-from-one",
        "ids counted from 1: the last one is V, and a kernel reads beyond the table",
        "forward", "ops.gather(embedding, $here, ...)", "$here + 1",
        TRAINING, "has loss nan"),
    KernelMutant("past-the-end", "a kernel takes one row too many, the last time beyond the array",
        "sum_of", r"j < to", "j <= to",
        kernel("segment_sum")),
    KernelMutant("before-the-start",
        "targets counted from 1 in a kernel: target 0 is read before the row",
        "softmax_loss", r"(targets\[blockIdx\.x\])", r"\1 - 1",
        kernel("softmax_loss")),
    Mutant("duplicates", "rows added by an index with duplicates: one addition of each is left",
        "backward", "$out = ops.segment_sum($rows, $groups, ...)",
        f"{ZEROS}\n$out[$groups.ids] += $rows",
        STEP, "duplicate indices in an assignment"),
    Mutant("atomics", "rows added by atomics, in another order each time",
        "backward", "$out = ops.segment_sum($rows, $groups, ...)",
        f"{ZEROS}\nget_array_module($rows).add.at($out, $groups.ids, $rows)",
        SAME_BITS, "assert b'"),
    # Ranks
    Mutant("not-summed", "gradients are not summed over ranks",
        "_all_reduce", "$group.all_reduce($grads.flat)", "None",
        RANKS, "has other parameters than rank 0"),
    Mutant("share-of-the-total",
        "each rank divides by the size of its shard, and the sum is too large",
        "Batch.scale", "len($captions) if $total is None else $total",
        "self.computed if $total is None else $total",
        RANKS),
    Mutant("masks-of-a-share",
        "rows of dropout masks are numbered within a shard: masks depend on the number of ranks",
        "prepare_batch", "mask_rows_of($packed, $captions, $lengths)",
        "mask_rows_of($packed, $captions[orders[0]], $lengths)",
        RANKS),
    # Memory
    KernelMutant("rows-not-zeroed", "gradients of rows without a target are left uninitialised",
        "scatter_drop", r"\* scale : 0;", "* scale : out[k];",
        TRAINING, "gradient of norm nan"),
    Mutant("state-not-zeroed", "the gradient of the last step starts from uninitialised memory",
        "cell_backward_steps", "n if carries else n_next", "n",
        TRAINING_RNN, "gradient of norm nan"),
    Mutant("buffer-used-twice", "one buffer for two arrays, after a line was copied",
        "forward", 'buffer("projected", $shape)', 'buffer("projected image", $shape)',
        WORKSPACE, "assert array("),
    Mutant("strides", "a view with strides for a kernel, which gets a bare pointer",
        "Kernel.check", "$a.flags.c_contiguous", "True",
        VIEW, "expected C-contiguous rows"),
    Mutant("default-device", "the number of a device is checked and forgotten",
        "_resolve", "return _name($name, $device)", 'return "cupy"',
        SECOND_DEVICE, "== [1, 1, 1]"),
    Mutant("kernel-of-another-device", "one loaded kernel for all devices",
        "Kernels.kernel", "($xp, $here, $name, like.dtype.char)", "0",
        SECOND_DEVICE, "was loaded on device 0"),
    # Launches that are recorded and repeated
    Mutant("record-of-other-work", "a record is repeated for other work than its own",
        "Replay.run", "self._key == $key and self.nodes", "self.nodes",
        OTHER_WORK, "assert [KernelLaunch(kernel="),
    Mutant("record-of-another-table", "a record is repeated for features at another address",
        "gradients", "($params, part.table.data.ptr, len(part.table))", "$params",
        OTHER_WORK, "assert [KernelLaunch(kernel="),
    Mutant("table-of-the-caller", "a record has the address of features that the caller may free",
        "prepare_batch", "padded and is_device_array($features)", "False",
        "test_emulated_steps_on_arrays_of_the_device_keep_one_record_and_one_batch", "assert "),
    Mutant("copy-is-not-recorded", "CuPy copies the initial states, which a repeated step does not",
        "forward_loop", "get_ops($a).start_states($state0, $states)", "$states[0][:N] = $state0[0]",
        "test_emulated_padded_batches_make_the_same_launches[init-rnn]",
        "launches outside the record"),
    Mutant("plain-equations-recorded", "a record misses an operation that CuPy computes",
        "_unrecorded", "invalidate(name)", "None",
        "test_emulated_operation_without_a_kernel_ends_a_record", "assert not"),
    Mutant("padding-is-a-word",
        "the word of padding counts among the distinct, and others get its mask",
        "pack", "np.where($live, $words, captions[order[0], 0])", "$words",
        "test_padded_words_are_distinct_and_ascend_and_count_as_before", "Arrays are not equal"),
    Mutant("untested-graph", "a graph is used without a look at its bits",
        "Replay._try_graph", "graph_bits != self._bits()", "False",
        _GRAPH + "[misses-one]"),
    Mutant("list-before-graph", "a graph is compared with results that are there already",
        "Replay._try_graph", "graph.launch()", "(self._run_list(), graph.launch())",
        _GRAPH + "[does-nothing]"),
    Mutant("replay-of-plain-equations", "plain equations do not reach a record, which runs kernels",
        "gradients", "isinstance(self._ops, DeviceOps)", "True",
        "test_emulated_plain_equations_reach_recorded_steps", "assert 'raw' not in"),
    Mutant("rest-of-another-step", "gradients are repeated after a forward pass that made new arrays",
        "gradients", "(*$key, part.terms.key, $cache)", "(*$key, part.terms.key)",
        "test_emulated_rest_of_a_step_is_not_repeated_after_a_forward_pass_that_was_not", "assert not"),
    Mutant("cuts-short", "a graph that CUDA refuses ends the training",
        "Replay._try_graph", "(RuntimeError, MemoryError)", "MemoryError",
        _GRAPH + "[refused]", "cudaErrorStreamCaptureUnsupported"),
    KernelMutant("padding-has-a-gradient", "a row without a target gets the gradient of some word",
        "softmax_loss", r"if \(target == NO_TARGET\)", "if (false)",
        kernel("softmax_loss")),
    KernelMutant("padding-keeps-units", "a row without a number keeps units of another",
        "draw", r"any && ", "",
        kernel("dropout_masks"), "Arrays are not equal"),
    # Raw products, and loops over whole buffers
    Mutant("leading-dimension", "the leading dimension is counted along the other axis",
        "layout", "(TRANSPOSED, $x.shape[0])", "(TRANSPOSED, $x.shape[1])",
        kernel("matmul_nt"), "lda is 7, expected at least the 11 rows of A"),
    Mutant("flags-of-the-factors", "the flags of the two factors are swapped, as the factors are",
        "multiply", "(flag_x, leading_x), (flag_w, leading_w) = $factors",
        "(flag_w, leading_x), (flag_x, leading_w) = $factors",
        kernel("matmul_nt"), "beyond its allocation"),
    Mutant("rows-for-columns", "m and n are swapped: cuBLAS is column-major",
        "multiply", "(n, k), m, real = $sizes", "(m, k), n, real = $sizes",
        kernel("matmul_add"), "beyond its allocation"),
    Mutant("single-precision", "float64 for sgemm",
        "GEMM", '{"f": "cublasSgemm_v2", "d": $here}', '"cublasSgemm_v2"',
        kernel("matmul", "float64"), "lies in memory of float64, expected float32"),
    Mutant("beta-forgotten", "beta is 0 where a product is to be added",
        "matmul_add", "cublas.multiply($x, $w, $out, cublas.ONE)", "cublas.multiply($x, $w, $out)",
        kernel("matmul_add")),
    Mutant("beta-left-over", "beta is 1 where a product is to be stored",
        "matmul", "cublas.multiply($x, $w, $out)", "cublas.multiply($x, $w, $out, cublas.ONE)",
        kernel("matmul")),
    Mutant("beta-forgotten-by-row", "beta is 0 where a product of a step's rows is to be added",
        "row_matmul_add", "cublas.multiply_rows($x, $w, $out, cublas.ONE)",
        "cublas.multiply_rows($x, $w, $out)",
        kernel("row_matmul_add")),
    Mutant("handle-of-another-device", "one cuBLAS handle for all devices",
        "_handle", 'current_device("cuBLAS", $out)', '(current_device("cuBLAS", $out)[0], 0)',
        SECOND_DEVICE, "the handle belongs to device 0, and device 1 is the current one"),
    Mutant("stream-of-their-own",
        "products run on a stream of their own, which waits for no kernel",
        "Handle._use", "self._library.cublasSetStream_v2(self.address, $here)", "0xBAD",
        kernel("matmul"), "the handle has stream 0xbad"),
    Mutant("workspace-forgotten",
        "a handle lacks its memory: cuBLAS forgets it with each change of the stream",
        "Handle._use", "self._library.cublasSetWorkspace_v2(self.address, ...)", "None",
        kernel("matmul"), "no workspace"),
    Mutant("half-a-workspace", "products of a graph have half the memory, and so other bits",
        "Handle._use", "memory.nbytes", "memory.nbytes >> (stream != 0)",
        HANDLES, "bytes of memory and another handle"),
    Mutant("captured-by-the-streams-own", "a graph is captured by a handle that others use",
        "Product.call", "self.handle.on(stream)", "self.handle",
        HANDLES, "the handle has stream 0x0"),
    Mutant("handle-of-the-thread", "streams of a thread share a handle, and the memory of products",
        "_handle", "threading.current_thread() if $x else $y", "threading.current_thread()",
        "test_emulated_two_streams_of_a_thread_multiply_in_their_own_memory",
        "the handle has stream 0x0"),
    Mutant("handles-that-stay", "handles of streams that are gone stay, each with its memory",
        "_handles", "weakref.WeakKeyDictionary()", "{}",
        "test_emulated_handles_go_with_their_streams", "assert 1000 == 1"),
    Mutant("product-out-of-turn", "kernels of two threads' products share memory, and mix",
        "_run", "with LAUNCH_LOCK: $call", "$call",
        TURNS + "[product-product]", "assert False"),
    Mutant("handle-ends-in-a-capture", "a handle may be destroyed while another thread captures",
        "_destroy", "with LAUNCH_LOCK: $call", "$call",
        TURNS + "[capture-dropped handle]", "not permitted when stream is capturing"),
    Mutant("collection-in-a-capture", "garbage may be collected while a stream captures",
        "_no_collections", "gc.disable()", "None",
        "test_emulated_capture_ends_no_handle_of_garbage[gc]",
        "not permitted when stream is capturing"),
    Mutant("no-context", "a thread's first launch finds no context of the device",
        "current_device", "not _this_thread.has_context", "False",
        "test_emulated_thread_that_begins_with_our_own_work_has_a_context[launch]", "assert "),
    Mutant("no-cublas", "no check that cuBLAS can be loaded",
        "prove", "float(cublas.multiply(x, x, $out)[0, 0])", "32.0",
        "test_emulated_device_without_cublas_is_not_usable", "assert 'cuBLAS' in"),
    Mutant("memory-let-go", "a loop keeps the address of an array, and not the array",
        "multiply_rows", "(x, w, out)", "()",
        KEPT, "lies in no array of the device"),
    Mutant("next-rows", "the rows of a product begin one too late",
        "multiply_rows", "$i * x_row", "($i + 1) * x_row",
        LOOP, "C overlaps B"),
    Mutant("stride-of-the-factor", "rows of the result are addressed by the factor's row length",
        "multiply_rows", "$o * out_row", "$o * x_row",
        kernel("row_matmul")),
    Mutant("transpose-forgotten", "the recurrent weights are not transposed in the backward pass",
        "row_matmul_nt", "self.row_matmul(x, $here, out)", "w",
        kernel("row_matmul_nt"), "beyond its allocation"),
    Mutant("first-for-before",
        "the index of a step's rows, where that of its previous states is needed",
        "forward_steps", "multiply($here, ...)", "step.first",
        ALONE, "h of sequence 0 differs from that of the sequence alone"),
    Mutant("first-for-before-in-a-launch",
        "the same in the launch of a kernel: rows for previous states",
        "cell_steps", "(before, after)", "(first, after)",
        kernel("cell_steps")),
    Mutant("state-before", "the derivative of tanh is taken at the previous state",
        "cell_backward_steps", "before if carried else after", "before",
        kernel("cell_backward_steps")),
    KernelMutant("first-row-in-a-kernel", "gates of each step are written from row 0 on",
        "lstm_gates", r"at_i = \(first \+ row\)", "at_i = row",
        kernel("cell_steps")),
    Mutant("short-stack", "a stack of states has no room for the initial ones",
        "forward_loop", "[$here] * len(cell.states)", "(R, H)",
        STEP, "wrote outside h"),
    Mutant("all-go-on", "every sequence of a step takes a gradient from the next step",
        "_steps", "Step($first, $before, $after, $n, $here)", "$n",
        TRAINING, "gradient of norm nan"),
    KernelMutant("all-go-on-in-a-kernel",
        "the same in a kernel: another sequence's gradient is added to dc",
        "lstm_gates_backward", r"dc_next = row < more \? dc\[k\] : 0", "dc_next = dc[k]",
        kernel("cell_backward_steps")),
    Mutant("without-a-step", "the gradient of a sequence without steps is left uninitialised",
        "backward_loop", "zero_without_steps($rows, ...)", "None",
        NO_STEP, "assert "),
    Mutant("second-block", "the second block of rows overwrites the gradients of the first",
        "vocabulary_loss", "$rows.start == 0", "$rows.stop > 0",
        SECOND_BLOCK),
    KernelMutant("no-such-word", "a target is not checked, and a kernel reads beyond the scores",
        "softmax_loss", r"known = [^;]*;", "known = true;",
        NO_SUCH_WORD, "SIGSEGV"),
    Mutant("memory-in-a-step", "a step allocates where it has a buffer",
        "backward", 'buffer("dvectors", $x.shape)', "get_array_module($x).empty_like($x)",
        NO_MEMORY, "Allocation("),
    # Beams
    Mutant("parents-ignored", "a hypothesis extends the caption of its slot, and not of its parent",
        "Hypotheses.write", "before[$parents]", "after",
        BEAM, "Beam(max_length="),
    Mutant("end-not-counted", "END is left out of the length that a beam divides by",
        "Beam._scores", "np.maximum($hypotheses.lengths, 1)",
        "np.maximum($hypotheses.lengths - $hypotheses.ended, 1)",
        BEAM, "Beam(max_length="),
    # Launching kernels
    Mutant("float-for-int", "a float where a kernel takes an int, which would read its bits",
        "record_step", "CUDA.launch($kernel, $blocks, record, loss, norm, $here)", "i / 1",
        kernel("record_step"), "a number of C's type int"),
    Mutant("blocks-rounded-down", "blocks are rounded down, and the tail is not computed",
        "Kernel.__call__", "-(-$n // self.threads)", "max(1, $n // self.threads)",
        kernel("adam_update")),
    Mutant("no-threads", "a kernel of no threads is launched, which a card refuses",
        "Kernel.__call__", "0 in grid", "False",
        "test_emulated_kernel_of_no_threads_is_not_launched", "which a card does not launch"),
    Mutant("grid-turned", "the axes of a grid are swapped",
        "segment_sum", "(K, CUDA.blocks($C, $columns))", "(CUDA.blocks($C, $columns), K)",
        kernel("segment_sum")),
    Mutant("macro", "float64 arrays for a kernel compiled for float",
        "REALS", '{"f": "float", "d": $here}', '"float"',
        kernel("adam_update", "float64"), "expected a C-contiguous array of float32"),
    Mutant("partial-sums", "a float32 buffer for a kernel that writes doubles",
        "_squares", 'buffer("squares", $shape, np.float64)', 'buffer("squares", $shape)',
        kernel("global_norm"), "expected a C-contiguous array of float64"),
    # Inside kernels
    KernelMutant("gates-transposed", "gates stacked i, f, g, o, as other libraries have them",
        "lstm_unit", r"gates\[2 \* H\] = o;\s+gates\[3 \* H\] = g;",
        "gates[2 * H] = g; gates[3 * H] = o;",
        kernel("cell_steps")),
    KernelMutant("gradient-forgotten", "the gradient from the step after is forgotten",
        "lstm_gates_backward", r"from_next = row < more \? dh_next\[k\] : 0", "from_next = 0",
        kernel("cell_backward_steps")),
    KernelMutant("row-of-the-state-before", "a step starts from states one row further on",
        "lstm_step", r"\(before \+ row0\)", "(before + row0 + 1)",
        kernel("fused_cell_steps")),
    KernelMutant("ended-sequences",
        "sequences that have ended get a gradient from the next step, too",
        "lstm_step_backward", r"dc_next = row < more \? dc\[k\] : 0", "dc_next = dc[k]",
        kernel("fused_cell_backward_steps")),
    Mutant("last-cell", "the gradient of the cell after a sequence's last step is not read",
        "cell_backward_steps", "n if carries else n_next", "n_next",
        kernel("cell_backward_steps")),
    Mutant("more-is-n", "every sequence of a step gets a gradient from the next one",
        "fused_cell_backward_steps", "launch($blocks, first, before, n, n_next, H)",
        "launch($blocks, first, before, n, n, H)",
        kernel("fused_cell_backward_steps")),
    KernelMutant("Wh-transposed", "Wh is read as if it were (4H, H)",
        "load_gates", r"\(\(k \+ j % 2 \* apart\) \* 4 \+ j / 2\) \* H \+ unit",
        "(j / 2 * H + unit) * H + k + j % 2 * apart",
        kernel("fused_cell_steps")),
    KernelMutant("tiles-in-use", "sums overwrite tiles that are still multiplied",
        "lstm_step", r"__syncthreads\(\);", "",
        kernel("fused_cell_steps"), nth=1),
    KernelMutant("guard", "surplus threads of the last block write beyond the array",
        "dropout", r"if \(\w+ >= n\) return;", "",
        kernel("dropout"), "wrote outside out"),
    KernelMutant("barrier-between-uses", "no barrier before shared memory is reused",
        "softmax_loss", r"__syncthreads\(\);", "",
        kernel("softmax_loss"), nth=2),
    KernelMutant("part-forgotten", "a word that occurs often lacks the last part of its rows",
        "segment_sum", r"p < SEGMENT_PARTS", "p < SEGMENT_PARTS - 1",
        kernel("segment_sum")),
    KernelMutant("sum-of-the-row", "log-probabilities of a sum that lacks half of the row",
        "log_softmax", r"half > 0", "half > 1",
        kernel("log_softmax_")),
    KernelMutant("word-of-the-next-share", "a draw begins behind the words before",
        "sample_words", r"running = before", "running = 0",
        kernel("sample_words")),
    KernelMutant("word-of-no-probability", "a draw takes words of probability 0",
        "sample_words", r"if \(p > 0\) word", "word",
        NO_PROBABILITY, "assert "),
    KernelMutant("last-of-equals", "the last of equal scores is the likeliest",
        "leads", r"i < j\);$", "i > j);",
        kernel("argmax")),
    KernelMutant("beam-of-the-ranking",
        "totals add up what ranks, with the penalty of a group, and not the scores",
        "beam_step", r"\+ scores\[", "+ ranked[",
        kernel("beam_step")),
    KernelMutant("found-twice", "the best continuation of a picture is found again in each pass",
        "beam_step", r"k > 0 && !precedes\(last, candidate\)", "false",
        kernel("beam_step")),
    KernelMutant("lines-forgotten", "the sum of a column lacks half of its rows",
        "column_sum", r"half >= SUM_COLUMNS", "half > SUM_COLUMNS",
        kernel("column_sum")),
    KernelMutant("barrier-before-the-tree",
        "no barrier before the reduction over a block's threads",
        "squares", r"__syncthreads\(\);", "",
        kernel("global_norm"), nth=0),
    KernelMutant("read-after-write",
        "a score is read after another thread may have overwritten it with its gradient",
        "softmax_loss", r"most - target_score", "most - scores[row + target]",
        ANY_ORDER, "the result depends on the order of the threads"),
    KernelMutant("share-forgotten", "the gradient lacks label smoothing's share of the other words",
        "softmax_loss", r"kept \+ rest : rest", "kept : 0",
        kernel("softmax_loss")),
    KernelMutant("scale-forgotten", "scores are not divided by the square root of H",
        "attend_step", r"\(scores\[p\] - most\) \* scale", "scores[p] - most",
        kernel("attend_steps")),
    KernelMutant("not-shifted", "a softmax without subtraction of the maximum: exp() overflows",
        "attend_step", r"\(scores\[p\] - most\) \* scale", "scores[p] * scale",
        kernel("attend_steps")),
    KernelMutant("row-of-a-sequence", "attention weights of each step are written from row 0 on",
        "attend_step", r"row = first \+ i", "row = i",
        kernel("attend_steps")),
    Mutant("first-for-before-in-attention",
        "the index of a step's rows, where attention needs that of its previous states",
        "attend_steps", "launch((step.n,), step.first, $here, P, H)", "step.first",
        kernel("attend_steps")),
    KernelMutant("gradient-replaced", "the gradient through the scores overwrites that through Wh",
        "attend_step_backward", r"(dh_next\[.*?\]) \+=", r"\1 =",
        kernel("attend_backward_steps")),
    KernelMutant("mean-forgotten",
        "the gradient of a softmax without the weighted mean over regions",
        "attend_step_backward", r"dweights\[p\] - mean", "dweights[p]",
        kernel("attend_backward_steps")),
    KernelMutant("state-of-the-step-itself",
        "the sum over steps takes the state after each step for the one before it",
        "attention_sum", r"firsts\[t - 1\]", "firsts[t]",
        kernel("attention_sum")),
    Mutant("slabs-rounded-down", "the last regions of a picture get no gradient",
        "attention_sum", 'CUDA.blocks($P, CUDA["SLAB"])', 'max(1, $P // CUDA["SLAB"])',
        kernel("attention_sum")),
    Mutant("too-many-regions", "no check that the scores of a picture fit into a block",
        "_fits_a_block", '$A.shape[1] <= CUDA["REGIONS"]', "True",
        MANY_REGIONS, "assert "),
    KernelMutant("parts-in-use", "partial products are overwritten while they are still summed",
        "multiply", r"__syncthreads\(\);", "",
        ATTENTION_ORDER, "the result depends on the order of the threads", nth=1),
    KernelMutant("masks-of-step-0",
        "the counter lacks the number of the step: each step drops the same units",
        "draw", r"0, 0, step", "0, 0, 0",
        kernel("dropout_masks")),
    KernelMutant("nine-rounds", "a round of Philox too few",
        "philox", r"round < 10", "round < 9",
        kernel("dropout_masks")),
    KernelMutant("high-first", "the high bits of a word are taken first",
        "draw", r"\(u % 4\)", "(3 - u % 4)",
        kernel("dropout_masks")),
    KernelMutant("flag", "the flag for numbers that are not finite is never set",
        "record_step", r"record\[0\] = 0;", ";",
        NOT_FINITE, "CaptioningSolver: val_loss of epoch 1 is nan"),
]
# fmt: on
