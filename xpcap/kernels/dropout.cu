// Inverted dropout of n numbers under a mask that the host drew: ops.drop states the contract. One thread for each number. out may be x.
typedef REAL real;

extern "C" __global__ void dropout(const real* x, const unsigned char* mask, real* out, double keep, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    out[k] = mask[k] ? x[k] * (real)(1 / keep) : 0;
}
