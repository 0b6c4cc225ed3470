// The pointwise half of a vanilla RNN step, and its gradient: RNNCell.equation and RNNCell.gradient.
//
// Arrays are whole buffers (., H), r that of one step. The step's n rows begin at row `first`; in the
// stack of states they lead to row `after`. One thread per element of (n, H), in a 1-D grid; n * H <
// 2^31.
typedef REAL real;

extern "C" __global__ void rnn_cell(const real* a, const real* r, real* h, int first, int after, int n, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n * H) return;
    h[(long long)after * H + k] = tanh(a[(long long)first * H + k] + r[k]);
}

// dh comes from the layer above; dh_next, one row per sequence, from the next time step, which only
// the first `more` sequences have.
extern "C" __global__ void rnn_cell_backward(const real* dh, const real* dh_next, const real* h, real* da, int first, int after, int n, int more,
                                             int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n * H) return;
    const long long at = (long long)first * H + k;
    const real state = h[(long long)after * H + k], dh_all = k < (unsigned)more * H ? dh[at] + dh_next[k] : dh[at];
    da[at] = dh_all * (1 - state * state);
}
