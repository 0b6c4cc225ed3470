// The elementwise half of an LSTM step, and its gradient. Contracts: ops.lstm_gates,
// ops.lstm_gate_steps and their backward forms.
//
// Arrays are whole buffers. The step's n rows begin at row `first`; in the stacks of states they
// lead from row `before` to row `after`. One thread per k = (row, unit) of (n, H), in a 1-D grid; n
// * H < 2^31. Arrays (., 4H) hold a row's gates i, f, o, g side by side, so a unit's four gates are
// H apart. Each thread reads everything it needs before it writes: gates may alias a or r, c may be
// c_prev itself, da may alias gates, and dc_prev may alias dc or dh_next.
typedef REAL real;

__device__ real sigmoid(real x) { return (real)0.5 * (1 + tanh((real)0.5 * x)); }

extern "C" __global__ void lstm_gates(const real* a, const real* r, const real* c_prev, real* h, real* c, real* gates, real* tanh_c,
                                      int first, int before, int after, int n, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n * H) return;
    const long long row = k / H, unit = k % H, at = (first + row) * H + unit, at_before = (before + row) * H + unit, at_after = (after + row) * H + unit;
    const long long at_i = (first + row) * 4 * H + unit, at_f = at_i + H, at_o = at_f + H, at_g = at_o + H;

    const real i = sigmoid(a[at_i] + r[at_i]);
    const real f = sigmoid(a[at_f] + r[at_f]);
    const real o = sigmoid(a[at_o] + r[at_o]);
    const real g = tanh(a[at_g] + r[at_g]);
    const real cell = f * c_prev[at_before] + i * g;
    const real tanh_cell = tanh(cell);

    gates[at_i] = i;
    gates[at_f] = f;
    gates[at_o] = o;
    gates[at_g] = g;
    c[at_after] = cell;
    tanh_c[at] = tanh_cell;
    h[at_after] = o * tanh_cell;
}

// dh comes from the layer above; dh_next and dc, one row per sequence, from the next time step,
// which only the first `more` sequences have.
extern "C" __global__ void lstm_gates_backward(const real* dh, const real* dh_next, const real* dc, const real* gates, const real* tanh_c,
                                               const real* c_prev, real* da, real* dc_prev, int first, int before, int n, int more, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n * H) return;
    const long long row = k / H, unit = k % H, at = (first + row) * H + unit;
    const long long at_i = (first + row) * 4 * H + unit, at_f = at_i + H, at_o = at_f + H, at_g = at_o + H;

    const real i = gates[at_i], f = gates[at_f], o = gates[at_o], g = gates[at_g];
    const real tanh_cell = tanh_c[at], cell_prev = c_prev[(before + row) * H + unit];
    const real dh_all = row < more ? dh[at] + dh_next[k] : dh[at];
    const real dc_here = dh_all * o * (1 - tanh_cell * tanh_cell);
    const real dc_all = row < more ? dc[k] + dc_here : dc_here;

    da[at_i] = dc_all * g * i * (1 - i);
    da[at_f] = dc_all * cell_prev * f * (1 - f);
    da[at_o] = dh_all * tanh_cell * o * (1 - o);
    da[at_g] = dc_all * i * (1 - g * g);
    dc_prev[k] = dc_all * f;
}
