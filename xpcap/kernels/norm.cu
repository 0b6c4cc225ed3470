// Clips the flat gradient by its Euclidean norm, in three launches. Contracts: ops.global_norm, ops.clip_to_norm.
//
// squares: each of BLOCKS blocks of THREADS threads writes a partial sum of squares; root: one block of THREADS threads adds them and takes the
// square root; clip: scales x in place, one thread per element. Sums are in double, reduced in trees of fixed shape, so results are reproducible
// to the bit.
typedef REAL real;
#define THREADS 256
#define BLOCKS 256

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

extern "C" __global__ void root(const double* partial, real* out) {
    __shared__ double sums[BLOCKS];
    const int thread = threadIdx.x;
    sums[thread] = partial[thread];
    __syncthreads();
    for (int half = BLOCKS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    if (thread == 0) out[0] = sqrt(sums[0]);
}

extern "C" __global__ void clip(real* x, const real* norm, double most, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const real limit = most, length = norm[0];
    const real factor = limit / (length <= limit ? limit : length);  // a NaN length stays NaN, as with xp.maximum
    if (k < n && factor != 1) x[k] *= factor;                        // usually 1, and then x is not even read
}
