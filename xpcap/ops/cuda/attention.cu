// Dot-product attention over the regions of pictures, and the mean of regions. A time step is one
// launch forward and one backward; the gradient of the pictures is one launch after the loop.
// Contracts: Ops.attend_steps, Ops.attend_backward_steps, Ops.attention_sum, Ops.mean_regions,
// Ops.add_to_regions.
//
// Arguments are whole buffers: the step's rows begin at `first`, and the states that it starts from
// at `before`, as in lstm_gates.cu; A is (N, P, H). In a step a block of THREADS threads computes one
// sequence. It reads its picture twice, the second time from cache if P * H numbers fit there. Sums
// have a fixed order, without atomics, so results are reproducible to the bit.
typedef REAL real;
#define BLOCKS_AT_ONCE 4            // of a step, on a multiprocessor: a thread then has 64 registers
#define LANES 16                    // threads that share a product; in float they read 64 neighbouring bytes
#define LINES (THREADS / LANES)     // groups of LANES threads
#define TURNS 2                     // products that a group computes at the same time
#define TILE (LINES * TURNS)        // regions whose products are summed between two barriers
#define PARTS (TILE * (LANES + 1))  // a line has one number of padding, so that a column lies in different banks
#define DEPTH 16                    // rows that a block of attention_sum copies to shared memory at a time
#define FACTORS (DEPTH * 2 * SLAB)

// products[p] = regions[p] . x, for all threads to read. Beyond the P regions the last one repeats,
// to the end of a tile.
__device__ void multiply(const real* regions, const real* x, int P, int H, real* parts, real* products) {
    const int thread = threadIdx.x, line = thread / LANES, lane = thread % LANES;
    for (int p0 = 0; p0 < P; p0 += TILE) {
        real sums[TURNS] = {};
        const real* of_region[TURNS];
#pragma unroll
        for (int j = 0; j < TURNS; ++j) {
            const int p = p0 + j * LINES + line;
            of_region[j] = regions + (long long)(p < P ? p : P - 1) * H;
        }
#pragma unroll 8  // keep several loads in flight
        for (long long k = lane; k < H; k += LANES)
#pragma unroll
            for (int j = 0; j < TURNS; ++j) sums[j] += of_region[j][k] * x[k];
#pragma unroll
        for (int j = 0; j < TURNS; ++j) parts[(j * LINES + line) * (LANES + 1) + lane] = sums[j];
        __syncthreads();
        if (thread < TILE) {
            real sum = 0;
#pragma unroll
            for (int j = 0; j < LANES; ++j) sum += parts[thread * (LANES + 1) + j];
            products[p0 + thread] = sum;
        }
        __syncthreads();  // all parts are summed before the next tile overwrites them
    }
}

// sums[0] + ... + sums[TILE - 1]
__device__ real total(const real* sums) {
    real sum = 0;
#pragma unroll
    for (int t = 0; t < TILE; ++t) sum += sums[t];
    return sum;
}

// Unit k of factors[0] * regions[0] + ... + factors[P - 1] * regions[P - 1].
__device__ real combination(const real* factors, const real* regions, int P, int H, int k) {
    real sum = 0;
#pragma unroll 8
    for (int p = 0; p < P; ++p) sum += factors[p] * regions[(long long)p * H + k];
    return sum;
}

// Grid: a block for each sequence of the step.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE) attend_step(const real* h, const real* A, real* weights, real* context,
                                                                                  int first, int before, int P, int H) {
    __shared__ real scores[REGIONS];
    __shared__ real parts[PARTS];
    __shared__ real maxima[TILE];
    __shared__ real sums[TILE];
    const int thread = threadIdx.x;
    const long long i = blockIdx.x, row = first + i;
    const real *regions = A + i * P * H, scale = 1 / sqrt((real)H);

    multiply(regions, h + (before + i) * H, P, H, parts, scores);
    if (thread < TILE) {
        real largest = scores[thread];  // comparisons ignore NaN, but the sum below does not
        for (int p = thread; p < P; p += TILE) largest = scores[p] > largest ? scores[p] : largest;
        maxima[thread] = largest;
    }
    __syncthreads();
    real largest = maxima[0];
#pragma unroll
    for (int t = 1; t < TILE; ++t) largest = maxima[t] > largest ? maxima[t] : largest;
    if (thread < TILE) {
        real sum = 0;
        for (int p = thread; p < P; p += TILE) {
            scores[p] = exp((scores[p] - largest) * scale);
            sum += scores[p];
        }
        sums[thread] = sum;
    }
    __syncthreads();
    const real sum = total(sums);
    for (int p = thread; p < P; p += THREADS) weights[row * P + p] = scores[p] / sum;
    for (int k = thread; k < H; k += THREADS) context[row * H + k] = combination(scores, regions, P, H, k) / sum;
}

// Later steps run first. dh_next has a row per sequence: the gradient that the state before this step
// has from elsewhere. This kernel adds to it.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE) attend_step_backward(const real* dcontext, const real* A, const real* weights,
                                                                                           real* dscores, real* dh_next, int first, int P, int H) {
    __shared__ real dweights[REGIONS];  // later the gradient of the scores
    __shared__ real parts[PARTS];
    __shared__ real sums[TILE];
    const int thread = threadIdx.x;
    const long long i = blockIdx.x, row = first + i;
    const real *regions = A + i * P * H, scale = 1 / sqrt((real)H);

    multiply(regions, dcontext + row * H, P, H, parts, dweights);
    if (thread < TILE) {
        real sum = 0;
        for (int p = thread; p < P; p += TILE) sum += weights[row * P + p] * dweights[p];
        sums[thread] = sum;
    }
    __syncthreads();
    const real mean = total(sums);
    for (int p = thread; p < P; p += THREADS) {
        dweights[p] = (dweights[p] - mean) * weights[row * P + p] * scale;
        dscores[row * P + p] = dweights[p];
    }
    __syncthreads();
    for (int k = thread; k < H; k += THREADS) dh_next[i * H + k] += combination(dweights, regions, P, H, k);
}

// Sequence i has row firsts[t] + i in step t, while that is below firsts[t + 1]; h is the stack of the
// N initial states and the state after each row. Grid: sequences along x, blocks of units along y,
// slabs of regions along z. A thread computes one unit of SLAB regions.
extern "C" __global__ void __launch_bounds__(THREADS) attention_sum(const real* weights, const real* dcontext, const real* dscores, const real* h,
                                                                    const int* firsts, real* out, int N, int T, int P, int H) {
    __shared__ real factors[FACTORS];  // for each row SLAB weights, then SLAB dscores
    const int i = blockIdx.x, k = blockIdx.y * THREADS + threadIdx.x, p0 = blockIdx.z * SLAB;
    int steps = 0;
    while (steps < T && firsts[steps] + i < firsts[steps + 1]) ++steps;

    real sums[SLAB] = {};
    for (int t0 = 0; t0 < steps; t0 += DEPTH) {
        for (int j = threadIdx.x; j < FACTORS; j += THREADS) {
            const int t = t0 + j / (2 * SLAB), p = p0 + j % SLAB;
            const real* from = j / SLAB % 2 ? dscores : weights;
            factors[j] = t < steps && p < P ? from[(long long)(firsts[t] + i) * P + p] : 0;
        }
        __syncthreads();
        for (int t = t0; t < steps && t < t0 + DEPTH && k < H; ++t) {
            const long long row = firsts[t] + i, before = t ? N + firsts[t - 1] + i : i;
            const real d = dcontext[row * H + k], state = h[before * H + k], *of_row = factors + (t - t0) * 2 * SLAB;
#pragma unroll
            for (int p = 0; p < SLAB; ++p) {
                sums[p] += of_row[p] * d;
                sums[p] += of_row[SLAB + p] * state;
            }
        }
        __syncthreads();  // all factors are read before the next rows overwrite them
    }
    if (k >= H) return;
#pragma unroll
    for (int p = 0; p < SLAB; ++p)
        if (p0 + p < P) out[((long long)i * P + p0 + p) * H + k] = sums[p];
}

// out[i] = mean of A[i] over its P regions; one thread per element of out (n,) = (N, H).
extern "C" __global__ void mean_regions(const real* A, real* out, int n, int P, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    const real* unit = A + (long long)(k / H) * P * H + k % H;
    real sum = 0;
#pragma unroll 8  // keep several loads in flight
    for (int p = 0; p < P; ++p) sum += unit[(long long)p * H];
    out[k] = sum / P;
}

// dA[i, p] += dmean[i] / P for all regions p; one thread per element of dmean (n,) = (N, H).
extern "C" __global__ void add_to_regions(real* dA, const real* dmean, int n, int P, int H) {
    const unsigned k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= (unsigned)n) return;
    real* unit = dA + (long long)(k / H) * P * H + k % H;
    const real share = dmean[k] / P;
    for (int p = 0; p < P; ++p) unit[(long long)p * H] += share;
}
