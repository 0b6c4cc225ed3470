// A running average moves towards w, both (n,), one thread per element. Contract: ops.average_update.
typedef REAL real;

extern "C" __global__ void average_update(real* __restrict__ average, const real* __restrict__ w, double take, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    average[k] += (real)take * (w[k] - average[k]);
}
