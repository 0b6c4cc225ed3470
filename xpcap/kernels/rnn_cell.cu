// The elementwise half of a vanilla RNN step, and its gradient, for n numbers: ops.rnn_cell and ops.rnn_cell_backward state the contract.
//
// One thread for each number, which it reads before it writes: h may be a or r, da may be any of the three inputs.
typedef REAL real;

extern "C" __global__ void rnn_cell(const real* a, const real* r, real* h, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    h[k] = tanh(a[k] + r[k]);
}

// dh comes from the layer above, dh_next from the step after.
extern "C" __global__ void rnn_cell_backward(const real* dh, const real* dh_next, const real* h, real* da, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    da[k] = (dh[k] + dh_next[k]) * (1 - h[k] * h[k]);
}
