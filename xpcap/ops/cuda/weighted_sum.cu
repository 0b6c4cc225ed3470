// sum(scale * x) of x (n,), with a scale for each element or one for all. Contract:
// Ops.weighted_sum.
//
// One block of THREADS threads. Sums are in double, reduced in a tree of fixed shape, so the result
// is reproducible to the bit.
typedef REAL real;

extern "C" __global__ void weighted_sum(const real* x, const real* scale, real same, int each, real* out, int n) {
    __shared__ double sums[THREADS];
    const int thread = threadIdx.x;
    double sum = 0;
    for (int k = thread; k < n; k += THREADS) sum += (double)x[k] * (each ? scale[k] : same);
    sums[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    if (thread == 0) out[0] = sums[0];
}
