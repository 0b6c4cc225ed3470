// The Euclidean norm of the flat gradient, and clipping by it, in two launches each. Contracts:
// Ops.global_norm, Ops.clip_by_norm.
//
// squares: each of BLOCKS blocks writes a partial sum of squares. root: one block adds them, one per
// thread, and takes the square root. clip: each of BLOCKS blocks computes the root again, and scales
// its share of x in place if the norm is finite. Sums are in double, reduced in trees of fixed shape,
// so results are reproducible to the bit, on every GPU.
typedef REAL real;
#define BLOCKS THREADS

extern "C" __global__ void squares(const real* x, double* partial, long long n) {
    __shared__ double sums[THREADS];
    const int thread = threadIdx.x;
    double sum = 0;
#pragma unroll 4
    for (long long k = (long long)blockIdx.x * THREADS + thread; k < n; k += BLOCKS * THREADS) sum += (double)x[k] * x[k];
    sums[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    if (thread == 0) partial[blockIdx.x] = sums[0];
}

// Returns the square root of the sum of all partial sums to every thread of a block.
__device__ real root_of(const double* partial, double* sums) {
    const int thread = threadIdx.x;
    sums[thread] = partial[thread];
    __syncthreads();
    for (int half = BLOCKS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    return sqrt(sums[0]);
}

extern "C" __global__ void root(const double* partial, real* out) {
    __shared__ double sums[BLOCKS];
    const real length = root_of(partial, sums);
    if (threadIdx.x == 0) out[0] = length;
}

extern "C" __global__ void clip(real* x, const double* partial, real* norm, real max_norm, long long n) {
    __shared__ double sums[BLOCKS];
    const real length = root_of(partial, sums);
    if (blockIdx.x == 0 && threadIdx.x == 0) norm[0] = length;
    // Usually the norm is small enough, and x is not even read. length - length is NaN for inf and NaN
    if (length <= max_norm || length - length != 0) return;
    const real factor = max_norm / length;
    for (long long k = (long long)blockIdx.x * THREADS + threadIdx.x; k < n; k += BLOCKS * THREADS) x[k] *= factor;
}
