// Gather rows of a table, and scatter their gradients back; with a mask, inverted dropout with scale
// 1 / keep. Contracts: Ops.gather, Ops.gather_plus, Ops.scatter, Ops.gather_plus_image,
// Ops.gather_regions.
//
// One thread per element of `out`, n < 2^31; `rows` (R,) are rows of the table. In a scatter they
// are distinct and ascending, so a thread finds its row of `out` among them by binary search: one
// launch writes all of `out`, without atomics.
typedef REAL real;

extern "C" __global__ void gather(const real* table, const int* rows, real* out, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    out[k] = table[(long long)rows[k / C] * C + k % C];
}

extern "C" __global__ void gather_drop(const real* table, const int* rows, const unsigned char* mask, real* out, real scale, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    out[k] = mask[k] ? table[(long long)rows[k / C] * C + k % C] * scale : 0;
}

// Each picture has P regions of D numbers; `mask` (N, D) drops a unit in all of its regions.
extern "C" __global__ void gather_regions(const real* table, const int* rows, const unsigned char* mask, real* out, real scale, int n, int P, int D) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const unsigned picture = k / D / P;
    out[k] = mask[picture * D + k % D] ? table[(long long)rows[picture] * P * D + k % ((unsigned)P * D)] * scale : 0;
}

extern "C" __global__ void gather_plus(const real* table, const int* rows, const real* b, real* out, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const unsigned column = k % C;
    out[k] = table[(long long)rows[k / C] * C + column] + b[column];
}

// `image` (N, C) has a row for each sequence; captions[r] is the sequence of row r.
extern "C" __global__ void gather_plus_image(
    const real* table, const int* rows, const real* b, const real* image, const int* captions, real* out, int n, int C
) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const unsigned column = k % C;
    out[k] = table[(long long)rows[k / C] * C + column] + b[column] + image[(long long)captions[k / C] * C + column];
}

// The position of a row in the ascending `rows` (R,); R if it is not among them.
__device__ int position_of(int row, const int* rows, int R) {
    int low = 0, high = R;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (rows[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low < R && rows[low] == row ? low : R;
}

extern "C" __global__ void scatter(const real* x, const int* rows, real* out, int R, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const int from = position_of(k / C, rows, R);
    out[k] = from < R ? x[(long long)from * C + k % C] : 0;
}

extern "C" __global__ void scatter_drop(const real* x, const int* rows, const unsigned char* mask, real* out, real scale, int R, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const int from = position_of(k / C, rows, R);
    const long long at = (long long)from * C + k % C;
    out[k] = from < R && mask[at] ? x[at] * scale : 0;
}
