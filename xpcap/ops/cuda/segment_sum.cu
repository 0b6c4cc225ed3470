// Sums rows by segment, for the gradient of embeddings, and by sequence. Contracts:
// ops.segment_sum; `order` lists the rows sorted by segment; ops.sequence_sum.
//
// out[k] = sum of rows[order[j]] for starts[k] <= j < starts[k + 1], 0 for an empty segment; rows
// (R, C), out (K, C). Grid: segments along x, blocks of columns along y; one thread per column.
// Rows are added in the given order, without atomics, so results are reproducible to the bit.
typedef REAL real;

extern "C" __global__ void segment_sum(const real* rows, const int* order, const int* starts, real* out, int C) {
    const int k = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= C) return;
    const int end = starts[k + 1];
    real sum = 0;
#pragma unroll 8  // frequent words have long segments: keep several loads in flight
    for (int j = starts[k]; j < end; ++j) sum += rows[(long long)order[j] * C + column];
    out[(long long)k * C + column] = sum;
}

// out[k] = sum of x's rows of sequence k, which is row firsts[t] + k of step t as long as that lies
// before firsts[t + 1]; x (R, C), out (N, C), T steps. Grid as above, with sequences along x.
extern "C" __global__ void sequence_sum(const real* x, const int* firsts, real* out, int T, int C) {
    const int k = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= C) return;
    real sum = 0;
    for (int t = 0; t < T && firsts[t] + k < firsts[t + 1]; ++t) sum += x[(long long)(firsts[t] + k) * C + column];
    out[(long long)k * C + column] = sum;
}
