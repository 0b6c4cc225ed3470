// Sums of rows by segment, for the gradient of embeddings, and by sequence. Contracts:
// Ops.segment_sum, where `order` lists the rows sorted by segment; Ops.sequence_sum.
//
// out[k] = sum of rows[order[j]] for starts[k] <= j < starts[k + 1], 0 for an empty segment; rows
// (R, C), out (K, C). Grid: segments along x, blocks of WIDTH columns along y. A block sums a short
// segment in THREADS columns, one per thread; blocks further along y then have nothing to do. It
// divides a longer segment, such as that of the word "a", among SEGMENT_PARTS groups of WIDTH threads,
// and adds their sums in order. The order of a sum depends on the segment's length alone, without
// atomics, so results are reproducible to the bit.
typedef REAL real;
#define WIDTH (THREADS / SEGMENT_PARTS)
#define SHORT 32  // rows

// Sum of rows[order[j]] in a column, for from <= j < to.
__device__ real sum_of(const real* rows, const int* order, int from, int to, int column, int C) {
    real sum = 0;
#pragma unroll 8  // keep several loads in flight
    for (int j = from; j < to; ++j) sum += rows[(long long)order[j] * C + column];
    return sum;
}

extern "C" __global__ void segment_sum(const real* rows, const int* order, const int* starts, real* out, int C) {
    __shared__ real sums[THREADS];
    const int k = blockIdx.x, thread = threadIdx.x, start = starts[k], end = starts[k + 1];
    if (end - start <= SHORT) {
        const int column = blockIdx.y * THREADS + thread;
        if (column < C) out[(long long)k * C + column] = sum_of(rows, order, start, end, column, C);
        return;
    }
    const int part = thread / WIDTH, column = blockIdx.y * WIDTH + thread % WIDTH, share = (end - start + SEGMENT_PARTS - 1) / SEGMENT_PARTS;
    const int from = start + part * share, to = from + share < end ? from + share : end;
    sums[thread] = column < C ? sum_of(rows, order, from, to, column, C) : 0;
    __syncthreads();
    if (part > 0 || column >= C) return;
    real sum = sums[thread];
#pragma unroll
    for (int p = 1; p < SEGMENT_PARTS; ++p) sum += sums[p * WIDTH + thread];
    out[(long long)k * C + column] = sum;
}

// out[k] = sum of the rows of sequence k: row firsts[t] + k in step t, while that is below
// firsts[t + 1]; x (R, C), out (N, C), T steps. Grid: sequences along x, blocks of columns along y;
// one thread per column.
extern "C" __global__ void sequence_sum(const real* x, const int* firsts, real* out, int T, int C) {
    const int k = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= C) return;
    real sum = 0;
    for (int t = 0; t < T && firsts[t] + k < firsts[t + 1]; ++t) sum += x[(long long)(firsts[t] + k) * C + column];
    out[(long long)k * C + column] = sum;
}
