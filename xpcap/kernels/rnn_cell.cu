// The elementwise half of a vanilla RNN step, and its gradient, over n elements. Contracts: ops.rnn_cell, ops.rnn_cell_backward.
//
// One thread per element; it reads before it writes, so h may alias a or r, and da any of the three inputs.
typedef REAL real;

extern "C" __global__ void rnn_cell(const real* a, const real* r, real* h, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    h[k] = tanh(a[k] + r[k]);
}

// dh comes from the layer above, dh_next from the next time step.
extern "C" __global__ void rnn_cell_backward(const real* dh, const real* dh_next, const real* h, real* da, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    da[k] = (dh[k] + dh_next[k]) * (1 - h[k] * h[k]);
}
