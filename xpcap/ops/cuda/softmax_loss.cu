// Softmax loss of scores (rows, V), plus a bias (V,) if `biased`, and its gradient, scaled per row by
// an array if `per_row`, else by `scalar`. Targets are smoothed: each word has the probability
// `word_share`, and the target has `target_share` more. Contracts: Ops.softmax_loss, Ops.word_loss. For
// NO_TARGET loss and gradient are 0. Any other target outside 0..V-1 gives the loss NaN, which shows,
// and no read beyond the scores.
//
// One block of THREADS threads per row; each thread reads every THREADS-th score. The row is read
// three times, the last two times from cache: for its maximum, for the sum of exp(score - maximum),
// and to write the gradient; smoothed targets need one more pass. dscores may alias scores. Partial
// results are reduced in a tree of fixed shape, so results are reproducible to the bit.
typedef REAL real;

extern "C" __global__ void softmax_loss(const real* scores, const real* bias, int biased, const int* targets, const real* scale, real scalar,
                                        int per_row, real target_share, real word_share, real* nll, real* dscores, int V) {
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

    real largest = scores[row] + (biased ? bias[0] : 0);  // comparisons ignore NaN, but the sum below does not
    for (int j = thread; j < V; j += THREADS) {
        const real score = scores[row + j] + (biased ? bias[j] : 0);
        largest = score > largest ? score : largest;
    }
    partial[thread] = largest;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half && partial[thread + half] > partial[thread]) partial[thread] = partial[thread + half];
        __syncthreads();
    }
    largest = partial[0];
    __syncthreads();  // all threads have read the maximum before `partial` is reused for the sum

    real sum = 0;
    for (int j = thread; j < V; j += THREADS) sum += exp(scores[row + j] + (biased ? bias[j] : 0) - largest);
    partial[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    sum = partial[0];

    real sum_below = 0;  // sum of score - maximum over all words
    if (word_share > 0) {
        __syncthreads();  // all threads have read the sum
        for (int j = thread; j < V; j += THREADS) sum_below += scores[row + j] + (biased ? bias[j] : 0) - largest;
        partial[thread] = sum_below;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (thread < half) partial[thread] += partial[thread + half];
            __syncthreads();
        }
        sum_below = partial[0];
    }

    const real share = 1 / sum, factor = per_row ? scale[blockIdx.x] : scalar;
    for (int j = thread; j < V; j += THREADS) {
        const real p = exp(scores[row + j] + (biased ? bias[j] : 0) - largest) * share;
        dscores[row + j] = (p - (j == target ? target_share + word_share : word_share)) * factor;
    }
    if (thread == 0) nll[blockIdx.x] = known ? log(sum) + target_share * (largest - target_score) - word_share * sum_below : (real)nan("");
}
