// Inverted dropout of x (n,) with a mask from the host, one thread per element. out may be x.
// Contract: ops.drop.
typedef REAL real;

extern "C" __global__ void dropout(const real* x, const unsigned char* mask, real* out, double keep, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    out[k] = mask[k] ? x[k] * (real)(1 / keep) : 0;
}
