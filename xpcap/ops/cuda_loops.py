"""CUDA kernels of the time loops: launches of one step over whole buffers, with everything that stays the same prepared. loops.py states what they compute."""

from xpcap.ops import cublas
from xpcap.ops.launch import BLOCK, INT_MAX, THREADS, are_indices, blocks, fits, i32, kernel, launch

FUSED = 128  # with at most so many sequences, a step of an LSTM is one launch each way: product and gates together. Not yet timed on a card
FORWARD_UNITS, BACKWARD_UNITS = 8, 16  # of a block in lstm_step.cu; its rows are the rest of its threads


def supports_start_states(h0, c0, h, c):
    return fits(h0, h, c) and (c0 is None or fits(h0, c0))


def start_states(h0, c0, h, c):
    launch("start", "start_states", h0, blocks(h0.size), h0, h0 if c0 is None else c0, h, c, i32(c0 is not None), i32(h0.size))


def supports_lstm_gate_steps(a, r, c_prev, out):
    return fits(a, r, c_prev, *out)


def lstm_gate_steps(a, r, c_prev, out):
    gates, H = kernel("lstm_gates", "lstm_gates", a), c_prev.shape[1]
    arrays, width = (a, r, c_prev, *out), i32(H)

    def take(step):
        first, before, after, n, _ = step
        gates((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(before), i32(after), i32(n), width))

    return take


def supports_lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T=None):
    return fits(dh, dh_next, dc, *out, da)


def lstm_gate_backward_steps(dh, dh_next, dc, out, da, dc_T=None):
    """With dc_T, dh_next and dc hold what comes from after the last step, too: every sequence reads them."""
    backward, H, carried = kernel("lstm_gates", "lstm_gates_backward", dh), dc.shape[1], dc_T is not None
    arrays, width = (dh, dh_next, dc, out.gates, out.tanh_c, out.c, da, dc), i32(H)
    if carried:
        dh_next[...], dc[...] = 0, dc_T

    def take(step):
        first, before, _, n, more = step
        backward((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(before), i32(n), i32(n if carried else more), width))

    return take


def supports_rnn_cell_steps(a, h):
    return fits(a, h)


def rnn_cell_steps(a, h):
    cell, H = kernel("rnn_cell", "rnn_cell", a), h.shape[1]
    arrays, width = (a, h, h), i32(H)

    def take(step):
        first, _, after, n, _ = step
        cell((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(after), i32(n), width))

    return take


def supports_rnn_cell_backward_steps(dh, dh_next, h, da):
    return fits(dh, dh_next, h, da)


def rnn_cell_backward_steps(dh, dh_next, h, da):
    backward, H = kernel("rnn_cell", "rnn_cell_backward", dh), h.shape[1]
    arrays, width = (dh, dh_next, h, da), i32(H)

    def take(step):
        first, _, after, n, more = step
        backward((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(after), i32(n), i32(more), width))

    return take


def _grid(n, H, units):
    """Blocks of (row, unit) pairs, with so many units each."""
    return -(-H // units), -(-n // (THREADS // units))


def supports_lstm_steps(a, Wh, state, out):
    h, c = state
    N = len(h) - len(a) or len(h)  # a stack holds N more than there are rows; a single step has arrays of its own
    return N <= FUSED and fits(a, Wh, h, c, *out)


def lstm_steps(a, Wh, state, out):
    fused, H = kernel("lstm_step", "lstm_step", a), len(Wh)
    arrays, width = (a, Wh, *state, *out), i32(H)

    def take(step):
        first, before, after, n, _ = step
        fused(_grid(n, H, FORWARD_UNITS), BLOCK, (*arrays, i32(first), i32(before), i32(after), i32(n), width))

    return take


def supports_lstm_backward_steps(dh, dh_next, dc, out, Wh, da, scratch):
    return len(dc) <= FUSED and fits(dh, dh_next, dc, *out, Wh, da) and cublas.supports_row_products_transpose(da, Wh, dh_next, scratch)


def lstm_backward_steps(dh, dh_next, dc, out, Wh, da, scratch):
    """Each step multiplies the da of its next one itself, so dh_next is written only at the end: by the first step."""
    fused, H = kernel("lstm_step", "lstm_step_backward", dh), len(Wh)
    arrays, width = (dh, out.gates, out.tanh_c, out.c, Wh, da, dc), i32(H)
    multiply = cublas.row_products_transpose(da, Wh, dh_next, scratch)

    def take(step):
        first, before, _, n, more = step
        fused(_grid(n, H, BACKWARD_UNITS), BLOCK, (*arrays, i32(first), i32(before), i32(n), i32(more), width))
        if not first:
            multiply(0, 0, n)

    return take


def supports_gather_plus_image(table, ids, b, image, rows, out):
    there = rows.caption is not None and are_indices(ids, rows.caption)
    return there and fits(table, b, image, out) and table.ndim == image.ndim == out.ndim == 2 and out.size <= INT_MAX


def gather_plus_image(table, ids, b, image, rows, out):
    size = i32(out.size), i32(out.shape[1])
    launch("gather", "gather_plus_image", out, blocks(out.size), table, ids, b, image, rows.caption, out, *size)
    return out


def supports_sequence_sum(x, rows, out):
    return rows.firsts is not None and are_indices(rows.firsts) and fits(x, out)


def sequence_sum(x, rows, out):
    N, C = out.shape
    launch("segment_sum", "sequence_sum", x, (N, blocks(C)), x, rows.firsts, out, i32(len(rows.firsts) - 1), i32(C))
    return out
