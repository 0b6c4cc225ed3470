// Sums of columns, for the gradients of biases: out[c] = sum of x[r, c] over all rows r; x (R, C),
// out (C,). Contract: Ops.column_sum.
//
// A block of THREADS threads sums SUM_COLUMNS columns; each of its LINES lines sums every LINES-th
// row. Lines are reduced in a tree of fixed shape, without atomics, so results are reproducible to
// the bit. A block has so few columns that a small batch, too, occupies most multiprocessors; eight
// floats are the least that the cache reads.
typedef REAL real;
#define LINES (THREADS / SUM_COLUMNS)

extern "C" __global__ void column_sum(const real* x, real* out, int R, int C) {
    __shared__ real sums[THREADS];
    const int thread = threadIdx.x, column = blockIdx.x * SUM_COLUMNS + thread % SUM_COLUMNS;
    real sum = 0;
    if (column < C) {
#pragma unroll 8  // keep several loads in flight
        for (int r = thread / SUM_COLUMNS; r < R; r += LINES) sum += x[(long long)r * C + column];
    }
    sums[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half >= SUM_COLUMNS; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    if (thread < SUM_COLUMNS && column < C) out[column] = sums[thread];
}
