"""CUDA kernels of the time loops: launches of one step over whole buffers, with everything that stays the same prepared. loops.py states what they compute."""

from xpcap.kernels.launching import BLOCK, blocks, fits, i32, kernel


def supports_lstm_gate_steps(a, r, c_prev, out):
    return fits(a, r, c_prev, *out)


def lstm_gate_steps(a, r, c_prev, out):
    gates, H = kernel("lstm_gates", "lstm_gates", a), c_prev.shape[1]
    arrays, width = (a, r, c_prev, *out), i32(H)

    def take(step):
        first, before, after, n, _ = step
        gates((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(before), i32(after), i32(n), width))

    return take


def supports_lstm_gate_backward_steps(dh, dh_next, dc, out, da):
    return fits(dh, dh_next, dc, *out, da)


def lstm_gate_backward_steps(dh, dh_next, dc, out, da):
    backward, H = kernel("lstm_gates", "lstm_gates_backward", dh), dc.shape[1]
    arrays, width = (dh, dh_next, dc, out.gates, out.tanh_c, out.c, da, dc), i32(H)

    def take(step):
        first, before, _, n, more = step
        backward((blocks(n * H),), BLOCK, (*arrays, i32(first), i32(before), i32(n), i32(more), width))

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
