// Clipping of the flat gradient by its Euclidean norm, in three launches: ops.global_norm and ops.clip_to_norm state the contract.
//
// squares: BLOCKS blocks of THREADS leave one partial sum of squares each; root: one block of THREADS adds them and takes the square root;
// clip: one thread for each number scales x in place. Sums are in double and meet in trees of fixed shape, so two runs give equal bits.
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
    const real factor = limit / (length <= limit ? limit : length);  // a NaN length stays NaN, as in xp.maximum
    if (k < n && factor != 1) x[k] *= factor;                        // most steps have factor 1, and x is left unread
}
