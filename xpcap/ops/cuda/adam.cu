// One Adam step over the flat buffers w, dw, m and v (n,), one thread per element; take_m is 1 -
// beta1, take_v 1 - beta2. Contract: Ops.adam_update.
typedef REAL real;

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
