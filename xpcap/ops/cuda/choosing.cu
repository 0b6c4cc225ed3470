// Kernels that choose the next words: log-probabilities, forbidden words, the likeliest word, samples,
// and a beam's best continuations. Contracts: Ops.log_softmax_, Ops.forbid, Ops.argmax,
// Ops.sample_words, Ops.beam_step.
//
// Except in `forbid`, a block of THREADS threads computes one row of V scores, or the rows of one
// picture's hypotheses; each thread reads every THREADS-th score. Sums and choices are reduced in a
// tree of fixed shape, so results are reproducible to the bit.
typedef REAL real;

// The maximum of a row, in every thread. Comparisons ignore NaN, but sums do not.
__device__ real maximum(const real* row, int V, real* partial) {
    const int thread = threadIdx.x;
    real largest = row[0];
    for (int j = thread; j < V; j += THREADS) largest = row[j] > largest ? row[j] : largest;
    partial[thread] = largest;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half && partial[thread + half] > partial[thread]) partial[thread] = partial[thread + half];
        __syncthreads();
    }
    largest = partial[0];
    __syncthreads();  // all threads have read it before `partial` is used again
    return largest;
}

// Grid: a block for each row.
extern "C" __global__ void log_softmax(real* scores, int V) {
    __shared__ real partial[THREADS];
    const int thread = threadIdx.x;
    real* row = scores + (long long)blockIdx.x * V;
    const real largest = maximum(row, V, partial);
    real sum = 0;
    for (int j = thread; j < V; j += THREADS) sum += exp(row[j] - largest);
    partial[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) partial[thread] += partial[thread + half];
        __syncthreads();
    }
    const real logarithm = log(partial[0]);
    for (int j = thread; j < V; j += THREADS) row[j] = row[j] - largest - logarithm;
}

// Writes -inf for the `count` words in each of n rows. One thread per row and word, n * count < 2^31.
extern "C" __global__ void forbid(real* scores, const int* words, int n, int count, int V) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < (unsigned)n * count) scores[(long long)(k / count) * V + words[k % count]] = log((real)0);
}

// Whether score a of word i precedes score b of word j: NaN first, then the larger, then the lower id.
__device__ bool leads(real a, int i, real b, int j) {
    if (a != a || b != b) return a != a && (b == b || i < j);
    return a > b || (a == b && i < j);
}

// Grid: a block for each row.
extern "C" __global__ void argmax(const real* scores, int* words, int V) {
    __shared__ real best[THREADS];
    __shared__ int columns[THREADS];
    const int thread = threadIdx.x;
    const real* row = scores + (long long)blockIdx.x * V;
    real largest = row[0];
    int column = 0;
    for (int j = thread; j < V; j += THREADS)
        if (leads(row[j], j, largest, column)) {
            largest = row[j];
            column = j;
        }
    best[thread] = largest;
    columns[thread] = column;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        const int other = thread + half;
        if (thread < half && leads(best[other], columns[other], best[thread], columns[thread])) {
            best[thread] = best[other];
            columns[thread] = columns[other];
        }
        __syncthreads();
    }
    if (thread == 0) words[blockIdx.x] = columns[0];
}

// The unnormalised probability of a word.
__device__ real weight(real x, real largest, real temperature, int soft) { return soft ? exp((x - largest) / temperature) : x; }

// x holds scores if `soft`, else probabilities. Grid: a block for each row. Each thread sums an equal
// share of neighbouring words; the shares' sums are then added in order, and so are the words of the
// share that contains the sampled word.
extern "C" __global__ void sample_words(const real* x, const real* u, int* words, real temperature, int soft, int V) {
    __shared__ real sums[THREADS];
    __shared__ real total[1];
    const int thread = threadIdx.x, share = (V + THREADS - 1) / THREADS;
    const int from = thread * share < V ? thread * share : V, to = from + share < V ? from + share : V;
    const real* row = x + (long long)blockIdx.x * V;
    const real largest = soft ? maximum(row, V, sums) : 0;

    real sum = 0;
    for (int j = from; j < to; ++j) sum += weight(row[j], largest, temperature, soft);
    sums[thread] = sum;
    __syncthreads();
    if (thread == 0) {
        real running = 0;
        for (int t = 0; t < THREADS; ++t) {
            const real thread_sum = sums[t];
            sums[t] = running;
            running += thread_sum;
        }
        total[0] = running;
    }
    __syncthreads();

    const real target = u[blockIdx.x] * total[0], before = sums[thread], after = thread + 1 < THREADS ? sums[thread + 1] : total[0];
    if (thread == 0 && !(target < total[0])) words[blockIdx.x] = 0;  // the total is NaN
    if (!(before <= target && target < after)) return;
    real running = before;
    int word = from;
    for (int j = from; j < to && running <= target; ++j) {
        const real p = weight(row[j], largest, temperature, soft);
        running += p;
        if (p > 0) word = j;  // the last word counts if rounding keeps the sum below the target
    }
    words[blockIdx.x] = word;
}

// A word that may continue one of a picture's hypotheses; there is none if `word` is below 0.
struct Candidate {
    real total, value;
    int row, word;
};

__device__ bool precedes(const Candidate& a, const Candidate& b) {
    if (a.word < 0 || b.word < 0) return a.word >= 0;
    if (a.total != b.total) return a.total > b.total;
    if (a.row != b.row) return a.row < b.row;
    return a.value > b.value || (a.value == b.value && a.word < b.word);
}

// Grid: a block for each of the n hypotheses, whose table rows are `rows`; only the block of a
// picture's first hypothesis works. It finds the candidates best first, each in one pass over those
// scores of the picture that come after the candidate before.
extern "C" __global__ void beam_step(const real* ranked, const real* scores, const real* totals, const int* rows, int* words, int* parents,
                                          real* new_totals, int n, int each, int size, int null, int V) {
    __shared__ real best_totals[THREADS];
    __shared__ real best_values[THREADS];
    __shared__ int best_rows[THREADS];
    __shared__ int best_words[THREADS];
    const int thread = threadIdx.x, first = blockIdx.x, picture = rows[first] / size;
    if (first > 0 && rows[first - 1] / size == picture) return;
    int count = 1;
    while (first + count < n && rows[first + count] / size == picture) ++count;

    Candidate last = {0, 0, 0, -1};
    for (int k = 0; k < count * each; ++k) {
        Candidate best = {0, 0, 0, -1};
        for (int row = first; row < first + count; ++row)
            for (int word = thread; word < V; word += THREADS) {
                const real value = ranked[(long long)row * V + word], total = value + totals[row];
                const Candidate candidate = {total, value, row, word};
                const bool exists = total - total == 0, found = k > 0 && !precedes(last, candidate);
                if (exists && !found && precedes(candidate, best)) best = candidate;
            }
        best_totals[thread] = best.total;
        best_values[thread] = best.value;
        best_rows[thread] = best.row;
        best_words[thread] = best.word;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (thread < half) {
                const int other = thread + half;
                const Candidate this_best = {best_totals[thread], best_values[thread], best_rows[thread], best_words[thread]};
                const Candidate other_best = {best_totals[other], best_values[other], best_rows[other], best_words[other]};
                if (precedes(other_best, this_best)) {
                    best_totals[thread] = other_best.total;
                    best_values[thread] = other_best.value;
                    best_rows[thread] = other_best.row;
                    best_words[thread] = other_best.word;
                }
            }
            __syncthreads();
        }
        last = {best_totals[0], best_values[0], best_rows[0], best_words[0]};
        __syncthreads();  // all threads have read it before the next pass overwrites it
        if (thread > 0) continue;
        const bool exists = last.word >= 0;
        const int to = first * each + k;
        words[to] = exists ? last.word : null;
        parents[to] = exists ? last.row : first;
        new_totals[to] = exists ? totals[last.row] + scores[(long long)last.row * V + last.word] : log((real)0);
    }
}
