// Sums of rows by segment, for the gradient of embeddings: ops.segment_sum states the contract, on rows sorted beforehand.
//
// out[k] = the sum of rows[order[j]] for j from starts[k] up to starts[k + 1], zero where there is none; rows (R, C),
// out (K, C). Blocks: one for each segment along x, columns along y; one thread for each column. Rows are added in the order
// given, without atomics, so two runs give equal bits.
typedef REAL real;

extern "C" __global__ void segment_sum(const real* rows, const int* order, const int* starts, real* out, int C) {
    const int k = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= C) return;
    const int end = starts[k + 1];
    real sum = 0;
#pragma unroll 8  // frequent words have long segments: several rows are to be under way at once
    for (int j = starts[k]; j < end; ++j) sum += rows[(long long)order[j] * C + column];
    out[(long long)k * C + column] = sum;
}
