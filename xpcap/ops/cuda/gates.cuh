// The equations of one unit of an LSTM, for lstm_gates.cu and lstm_step.cu: LSTMCell.equation and
// LSTMCell.gradient of layers/lstm.py. A row stacks its gates i, f, o, g, so a unit's gates are H apart.

__device__ real sigmoid(real x) { return (real)0.5 * (1 + tanh((real)0.5 * x)); }

// Gates and states from pre-activations a, written through pointers: `gates` points to the unit's i,
// the others to the unit itself.
__device__ void lstm_unit(real a_i, real a_f, real a_o, real a_g, real c_prev, int H, real* gates, real* c, real* tanh_c, real* h) {
    const real i = sigmoid(a_i), f = sigmoid(a_f), o = sigmoid(a_o), g = tanh(a_g);
    const real cell = f * c_prev + i * g, tanh_cell = tanh(cell);
    gates[0] = i;
    gates[H] = f;
    gates[2 * H] = o;
    gates[3 * H] = g;
    *c = cell;
    *tanh_c = tanh_cell;
    *h = o * tanh_cell;
}

// Its gradients: da, laid out as `gates`, and dc_prev. dh is the state's whole gradient, dc the part
// of the cell's gradient that comes from the next step.
__device__ void lstm_unit_backward(real dh, real dc, const real* gates, real tanh_c, real c_prev, int H, real* da, real* dc_prev) {
    const real i = gates[0], f = gates[H], o = gates[2 * H], g = gates[3 * H];
    const real dc_all = dc + dh * o * (1 - tanh_c * tanh_c);
    da[0] = dc_all * g * i * (1 - i);
    da[H] = dc_all * c_prev * f * (1 - f);
    da[2 * H] = dh * tanh_c * o * (1 - o);
    da[3 * H] = dc_all * i * (1 - g * g);
    *dc_prev = dc_all * f;
}
