// Small kernels, with a thread per element or in one block. Contracts: the operations of the same
// names in Ops.
typedef REAL real;

// Copies h0 and c0 (n elements each) to the beginning of the stacks h and c; without c0, c gets zeros.
extern "C" __global__ void start_states(const real* h0, const real* c0, real* h, real* c, int has_c0, int n) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    h[k] = h0[k];
    c[k] = has_c0 ? c0[k] : 0;
}

// x[k] += b[k % C], x (n,), b (C,): adds a vector to every row, or an array of the same size.
extern "C" __global__ void add_rows(real* x, const real* b, int n, int C) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    x[k] += b[k % C];
}

// Inverted dropout of x (n,); `scale` is 1 / keep. out may be x.
extern "C" __global__ void dropout(const real* x, const unsigned char* mask, real* out, real scale, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    out[k] = mask[k] ? x[k] * scale : 0;
}

// One Adam step over the flat buffers w, dw, m and v (n,); rate_m is 1 - beta1, rate_v 1 - beta2.
extern "C" __global__ void adam_update(real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ m, real* __restrict__ v,
                                       real alpha, real beta1, real rate_m, real beta2, real rate_v, real epsilon, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    const real g = dw[k], w_old = w[k];
    const real m_new = beta1 * m[k] + rate_m * g;
    const real v_new = beta2 * v[k] + rate_v * (g * g);
    m[k] = m_new;
    v[k] = v_new;
    w[k] = w_old - alpha * m_new / (sqrt(v_new) + epsilon);
}

// sum(scale * x) of x (n,), by one block of THREADS threads; the scale is an array if `per_element`,
// else the number `scalar`. Sums are in double, reduced in a tree of fixed shape, so the result is
// reproducible to the bit.
extern "C" __global__ void weighted_sum(const real* x, const real* scale, real scalar, int per_element, real* out, int n) {
    __shared__ double sums[THREADS];
    const int thread = threadIdx.x;
    double sum = 0;
    for (int k = thread; k < n; k += THREADS) sum += (double)x[k] * (per_element ? scale[k] : scalar);
    sums[thread] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    if (thread == 0) out[0] = sums[0];
}

// record (capacity, 2): row i holds loss and norm of step i. Only the first thread works.
extern "C" __global__ void record_step(real* record, const real* loss, const real* norm, int i) {
    if (threadIdx.x > 0) return;
    record[2LL * i] = loss[0];
    record[2LL * i + 1] = norm[0];
}
