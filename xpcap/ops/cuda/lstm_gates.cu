// The pointwise half of an LSTM step, and its gradient: LSTMCell.equation and LSTMCell.gradient.
//
// Arguments are whole buffers; r holds one step only. The step's n rows begin at row `first`, and in
// the stacks of states at `before` (the states it starts from) and `after` (those it ends in). One
// thread per k = (row, unit) of (n, H), in a 1-D grid; n * H < 2^31. A row of (., 4H) stacks its
// gates i, f, o, g, so a unit's four gates are H apart. Each thread reads before it writes, so c may
// be c_prev itself, and dc_prev may be dc.
typedef REAL real;

#include "gates.cuh"

extern "C" __global__ void lstm_gates(const real* a, const real* r, const real* c_prev, real* h, real* c, real* gates, real* tanh_c,
                                      int first, int before, int after, int n, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n * H) return;
    const long long row = k / H, unit = k % H, at = (first + row) * H + unit, at_i = (first + row) * 4 * H + unit, at_r = row * 4 * H + unit, at_after = (after + row) * H + unit;
    lstm_unit(a[at_i] + r[at_r], a[at_i + H] + r[at_r + H], a[at_i + 2 * H] + r[at_r + 2 * H], a[at_i + 3 * H] + r[at_r + 3 * H],
              c_prev[(before + row) * H + unit], H, gates + at_i, c + at_after, tanh_c + at, h + at_after);
}

// dh comes from the layer above. dh_next and dc, with a row per sequence, come from the next time
// step, which only the first `more` sequences have.
extern "C" __global__ void lstm_gates_backward(const real* dh, const real* dh_next, const real* dc, const real* gates, const real* tanh_c,
                                               const real* c_prev, real* da, real* dc_prev, int first, int before, int n, int more, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n * H) return;
    const long long row = k / H, unit = k % H, at = (first + row) * H + unit, at_i = (first + row) * 4 * H + unit;
    const real from_next = row < more ? dh_next[k] : 0, dc_next = row < more ? dc[k] : 0;
    lstm_unit_backward(dh[at] + from_next, dc_next, gates + at_i, tanh_c[at], c_prev[(before + row) * H + unit], H, da + at_i, dc_prev + k);
}
