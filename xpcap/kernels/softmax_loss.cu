// Softmax loss of rows of scores (rows, V) and its gradient, each row's times its scale: ops.softmax_loss states the contract.
//
// One block of THREADS for each row; a thread takes every THREADS-th score of it. The row is read three times, the last two out
// of cache: for its maximum, for the sum of exp(score - maximum), and to write the gradient. dscores may be scores.
// Partial results meet in a tree of fixed shape, so two runs give equal bits.
typedef REAL real;
#define THREADS 256

extern "C" __global__ void softmax_loss(const real* scores, const int* targets, const real* scale, real* nll, real* dscores, int V) {
    __shared__ real partial[THREADS];
    const int thread = threadIdx.x, target = targets[blockIdx.x];
    const long long row = (long long)blockIdx.x * V;
    const real target_score = scores[row + target];  // read before any thread writes the gradient over it

    real most = scores[row];  // a NaN that the comparisons lose comes back with the sum
    for (int j = thread; j < V; j += THREADS) most = scores[row + j] > most ? scores[row + j] : most;
    partial[thread] = most;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half && partial[thread + half] > partial[thread]) partial[thread] = partial[thread + half];
        __syncthreads();
    }
    most = partial[0];
    __syncthreads();  // all have read the maximum before the sum takes its place

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
