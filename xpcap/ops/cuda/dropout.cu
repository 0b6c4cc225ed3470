// Inverted dropout of x (n,), one thread per element; `scale` is 1 / keep. out may be x. Contract:
// Ops.dropout.
typedef REAL real;

extern "C" __global__ void dropout(const real* x, const unsigned char* mask, real* out, real scale, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    out[k] = mask[k] ? x[k] * scale : 0;
}
