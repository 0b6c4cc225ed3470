// Softmax loss of scores (rows, V), and its gradient with a scale per row. Contract: ops.softmax_loss.
//
// One block of THREADS threads per row; each thread takes every THREADS-th score. The row is read three times, the last two times from cache:
// for its maximum, for the sum of exp(score - maximum), and to write the gradient. dscores may alias scores.
// Partial results are reduced in a tree of fixed shape, so results are reproducible to the bit.
typedef REAL real;
#define THREADS 256

extern "C" __global__ void softmax_loss(const real* scores, const int* targets, const real* scale, real* nll, real* dscores, int V) {
    __shared__ real partial[THREADS];
    const int thread = threadIdx.x, target = targets[blockIdx.x];
    const long long row = (long long)blockIdx.x * V;
    const real target_score = scores[row + target];  // read before any thread overwrites it with the gradient

    real most = scores[row];  // comparisons drop a NaN, but the sum brings it back
    for (int j = thread; j < V; j += THREADS) most = scores[row + j] > most ? scores[row + j] : most;
    partial[thread] = most;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half && partial[thread + half] > partial[thread]) partial[thread] = partial[thread + half];
        __syncthreads();
    }
    most = partial[0];
    __syncthreads();  // all have read the maximum before partial is reused for the sum

    real sum = 0;
    for (int j = thread; j < V; j += THREADS) sum += exp(scores[row + j] - most);
    partial[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    sum = partial[0];

    const real share = 1 / sum, factor = scale[blockIdx.x];
    for (int j = thread; j < V; j += THREADS) dscores[row + j] = (exp(scores[row + j] - most) * share - (j == target)) * factor;
    if (thread == 0) nll[blockIdx.x] = log(sum) + (most - target_score);
}
