// Small kernels, of a thread for each element or of one block. Contracts: the operations of Ops that
// have their names.
typedef REAL real;

// h0 and c0 (n elements each), or zeros if c0 is not `given`, to the beginning of the stacks h and c.
extern "C" __global__ void start_states(const real* h0, const real* c0, real* h, real* c, int given, int n) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    h[k] = h0[k];
    c[k] = given ? c0[k] : 0;
}

// x[k] += b[k % C], x (n,), b (C,): a vector added to every row, or one array to another of its size.
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

// One Adam step over the flat buffers w, dw, m and v (n,); take_m is 1 - beta1, take_v 1 - beta2.
extern "C" __global__ void adam_update(real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ m, real* __restrict__ v,
                                       real alpha, real beta1, real take_m, real beta2, real take_v, real epsilon, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    const real g = dw[k], w_old = w[k];
    const real m_new = beta1 * m[k] + take_m * g;
    const real v_new = beta2 * v[k] + take_v * (g * g);
    m[k] = m_new;
    v[k] = v_new;
    w[k] = w_old - alpha * m_new / (sqrt(v_new) + epsilon);
}

// sum(scale * x) of x (n,), with a scale for each element or one for all, by one block of THREADS
// threads. Sums are in double, reduced in a tree of fixed shape, so the result is reproducible to
// the bit.
extern "C" __global__ void weighted_sum(const real* x, const real* scale, real same, int each, real* out, int n) {
    __shared__ double sums[THREADS];
    const int thread = threadIdx.x;
    double sum = 0;
    for (int k = thread; k < n; k += THREADS) sum += (double)x[k] * (each ? scale[k] : same);
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
