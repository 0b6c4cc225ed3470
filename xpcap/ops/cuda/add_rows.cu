// x[k] += b[k % C], one thread per element of x (n,), b (C,): a vector added to every row, or one array
// to another of its size. Contract: Ops.add_rows.
typedef REAL real;

extern "C" __global__ void add_rows(real* x, const real* b, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    x[k] += b[k % C];
}
