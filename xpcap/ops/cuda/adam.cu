// One Adam step over the flat buffers w, dw, m and v (n,), one thread per element. Contract:
// ops.adam_update.
typedef REAL real;

extern "C" __global__ void adam_update(real* __restrict__ w, const real* __restrict__ dw, real* __restrict__ m, real* __restrict__ v,
                                       double alpha, double beta1, double beta2, double epsilon, long long n) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= n) return;
    const real keep_m = beta1, take_m = 1 - beta1, keep_v = beta2, take_v = 1 - beta2;  // 1 - beta in double, as Python does
    const real g = dw[k], w_old = w[k];
    const real m_new = keep_m * m[k] + take_m * g;
    const real v_new = keep_v * v[k] + take_v * (g * g);
    m[k] = m_new;
    v[k] = v_new;
    w[k] = w_old - (real)alpha * m_new / (sqrt(v_new) + (real)epsilon);
}
