// The states before the first step: h0 and c0 (n elements each), or zeros if c0 is not `given`, to
// the beginning of the stacks h and c. Contract: Ops.start_states.
typedef REAL real;

extern "C" __global__ void start_states(const real* h0, const real* c0, real* h, real* c, int given, int n) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    h[k] = h0[k];
    c[k] = given ? c0[k] : 0;
}
