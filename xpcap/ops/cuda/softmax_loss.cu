// Softmax loss of scores (rows, V), plus a bias (V,) if `biased`, and its gradient with a scale per
// row if `each`, else one scale for all. Targets are smoothed: a word has the probability `rest`,
// the target has `kept` besides. Contracts: Ops.softmax_loss, Ops.word_loss. With NO_TARGET loss and
// gradient are 0. Any other target outside 0..V-1 gives a loss of NaN, so that it is seen and nothing
// beyond the scores is read.
//
// One block of THREADS threads per row; each thread takes every THREADS-th score. The row is read
// three times, the last two times from cache: for its maximum, for the sum of exp(score - maximum),
// and to write the gradient; once more for smoothed targets. dscores may alias scores. Partial
// results are reduced in a tree of fixed shape, so results are reproducible to the bit.
typedef REAL real;

extern "C" __global__ void softmax_loss(const real* scores, const real* bias, int biased, const int* targets, const real* scale, real same,
                                        int each, real kept, real rest, real* nll, real* dscores, int V) {
    __shared__ real partial[THREADS];
    const int thread = threadIdx.x, target = targets[blockIdx.x];
    const long long row = (long long)blockIdx.x * V;
    if (target == NO_TARGET) {  // the whole block
        for (int j = thread; j < V; j += THREADS) dscores[row + j] = 0;
        if (thread == 0) nll[blockIdx.x] = 0;
        return;
    }
    const bool known = target >= 0 && target < V;
    const int at = known ? target : 0;
    const real target_score = scores[row + at] + (biased ? bias[at] : 0);  // read before any thread overwrites it with the gradient

    real most = scores[row] + (biased ? bias[0] : 0);  // comparisons drop a NaN, but the sum brings it back
    for (int j = thread; j < V; j += THREADS) {
        const real score = scores[row + j] + (biased ? bias[j] : 0);
        most = score > most ? score : most;
    }
    partial[thread] = most;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half && partial[thread + half] > partial[thread]) partial[thread] = partial[thread + half];
        __syncthreads();
    }
    most = partial[0];
    __syncthreads();  // all have read the maximum before partial is reused for the sum

    real sum = 0;
    for (int j = thread; j < V; j += THREADS) sum += exp(scores[row + j] + (biased ? bias[j] : 0) - most);
    partial[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    sum = partial[0];

    real away = 0;  // sum of all scores, each from the maximum
    if (rest > 0) {
        __syncthreads();  // all have read the sum
        for (int j = thread; j < V; j += THREADS) away += scores[row + j] + (biased ? bias[j] : 0) - most;
        partial[thread] = away;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (thread < half) partial[thread] += partial[thread + half];
            __syncthreads();
        }
        away = partial[0];
    }

    const real share = 1 / sum, factor = each ? scale[blockIdx.x] : same;
    for (int j = thread; j < V; j += THREADS) {
        const real p = exp(scores[row + j] + (biased ? bias[j] : 0) - most) * share;
        dscores[row + j] = (p - (j == target ? kept + rest : rest)) * factor;
    }
    if (thread == 0) nll[blockIdx.x] = known ? log(sum) + kept * (most - target_score) - rest * away : (real)nan("");
}
