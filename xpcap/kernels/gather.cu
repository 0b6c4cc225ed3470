// Rows of a table to where they are used, and gradients back; with inverted dropout if there is a mask. Contracts: ops.gather, ops.gather_plus,
// ops.scatter.
//
// One thread per element of the (R, C) side, n = R * C < 2^31; `rows` (R,) are rows of the table, and distinct in a scatter. A scatter writes only
// those rows: the rest has been zeroed before.
typedef REAL real;

extern "C" __global__ void gather(const real* table, const int* rows, real* out, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    out[k] = table[(long long)rows[k / C] * C + k % C];
}

extern "C" __global__ void gather_drop(const real* table, const int* rows, const unsigned char* mask, real* out, double keep, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    out[k] = mask[k] ? table[(long long)rows[k / C] * C + k % C] * (real)(1 / keep) : 0;
}

extern "C" __global__ void gather_plus(const real* table, const int* rows, const real* b, real* out, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const unsigned column = k % C;
    out[k] = table[(long long)rows[k / C] * C + column] + b[column];
}

extern "C" __global__ void scatter(const real* x, const int* rows, real* out, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    out[(long long)rows[k / C] * C + k % C] = x[k];
}

extern "C" __global__ void scatter_drop(const real* x, const int* rows, const unsigned char* mask, real* out, double keep, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    out[(long long)rows[k / C] * C + k % C] = mask[k] ? x[k] * (real)(1 / keep) : 0;
}
