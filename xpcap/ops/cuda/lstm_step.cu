// An LSTM step of a small batch, with its product with Wh, in one launch forward and one backward:
// LSTMCell.equation and LSTMCell.gradient.
//
// Arguments are whole buffers with the step's rows at `first`, `before` and `after`, as in
// lstm_gates.cu. h and h_prev may be one array, and so may c and c_prev: a step reads some rows and
// writes others.
//
// A block computes one tile of x @ w; then each thread finishes one (row, unit) pair. Forward, x is
// h_prev, and w the four gates of 8 units of Wh; backward, x is da of the next step, and w 16 units
// of Wh transposed. The block copies `depth` terms at a time to shared memory:
//
//                                              w_tile: 8 units of i, f, o, g
//                                             +-------------------------------+
//                                             |                               |
//                                             |   64 terms, stored transposed |
//                                             |                               |
//              h_tile: 64 terms               +-------------------------------+
//         +------+------+------+------+       +-------------------------------+
//         |      |      |      |      |       | p . . . . . . . p . . . . . . |
//    32   | part | part | part | part |       | . . . . . . . . . . . . . . . |
//    rows |  0   |  1   |  2   |  3   |       | 32 x 32 sums, 16 a thread: a  |
//         |      |      |      |      |       | patch of 4 x 4, 8 apart       |
//         |      |      |      |      |       | p . . . . . . . p . . . . . . |
//         +------+------+------+------+       +-------------------------------+
//           ---> the next 64 terms, until all H are summed
//
// 64 threads hold all patches. Four such groups divide the depth into parts, so a thread reads 8
// numbers for 16 products; at the end the parts of each sum are added. Backward, the tile has 16 x 16
// sums, 16 threads hold them, and 16 groups divide 128 terms. Sums have a fixed order, so results are
// reproducible to the bit.
typedef REAL real;
#define BLOCKS_AT_ONCE (8 / sizeof(real))  // on a multiprocessor: two in float, with 128 registers per thread
#define LOADS 8                            // most numbers of a tile that a thread copies
#define PAD 4                  // numbers between lines of a tile: 4 numbers of 8 lines then lie in 32 different banks
#define BUFFER (17 * THREADS)  // first both tiles with padding, later 16 sums per thread; 34 KiB in double

struct Tile {
    int rows, columns, depth;
};
// With H = 512, 25 sequences make 64 blocks forward and 64 backward, and 128 sequences make 256: about
// two for each multiprocessor of an H100. Among tiles of 1024 sums a square one reads least. Backward,
// a tile has 256 sums, with four times as many terms.
#define FORWARD {THREADS / FORWARD_UNITS, 4 * FORWARD_UNITS, THREADS / 4}
#define BACKWARD {THREADS / BACKWARD_UNITS, BACKWARD_UNITS, THREADS / 2}

#include "gates.cuh"

// ---- Tiles. A thread loads its share of the next tile before the block multiplies the current one.
// Zeros stand beyond the edges of a matrix.

// Loads lines of a matrix with rows of `width` numbers, starting at `from`; from there the matrix has
// `lines_left` more rows and `terms_left` more columns.
__device__ void load_lines(const real* from, unsigned width, int lines_left, int terms_left, int lines, int depth, real* share) {
    const int line = threadIdx.x / depth, k = threadIdx.x % depth, stride = THREADS / depth;
#pragma unroll
    for (int j = 0; j < lines / stride; ++j) share[j] = line + j * stride < lines_left && k < terms_left ? from[(line + j * stride) * width + k] : 0;
}

__device__ void store_lines(real* tile, int lines, int depth, const real* share) {
    const int line = threadIdx.x / depth, k = threadIdx.x % depth, stride = THREADS / depth;
#pragma unroll
    for (int j = 0; j < lines / stride; ++j) tile[(line + j * stride) * (depth + PAD) + k] = share[j];
}

// Loads the four gates of some units from Wh (H, 4H): a line of the tile for each gate and unit.
// Eight threads read 32 neighbouring bytes.
__device__ void load_gates(const real* from, unsigned H, int units_left, int terms_left, real* share) {
    const int unit = threadIdx.x % FORWARD_UNITS, k = threadIdx.x / FORWARD_UNITS, stride = THREADS / FORWARD_UNITS;
#pragma unroll
    for (int j = 0; j < LOADS; ++j)
        share[j] = unit < units_left && k + j % 2 * stride < terms_left ? from[((k + j % 2 * stride) * 4 + j / 2) * H + unit] : 0;
}

__device__ void store_gates(real* tile, int depth, const real* share) {
    const int unit = threadIdx.x % FORWARD_UNITS, k = threadIdx.x / FORWARD_UNITS, stride = THREADS / FORWARD_UNITS;
#pragma unroll
    for (int j = 0; j < LOADS; ++j) tile[(j / 2 * FORWARD_UNITS + unit) * (depth + PAD) + k + j % 2 * stride] = share[j];
}

// ---- Sums

// A thread's patch: rows `row`, row + rows_apart, ... and columns likewise. From each tile it multiplies
// the terms from part * terms on.
struct Patch {
    int part, parts, terms, row, rows_apart, column, columns_apart;
};

__device__ Patch patch_of(Tile tile) {
    const int down = tile.rows / 4, across = tile.columns / 4, parts = THREADS / (down * across);
    const int part = threadIdx.x / (down * across), patch = threadIdx.x % (down * across);
    return {part, parts, tile.depth / parts, patch / across, down, patch % across, across};
}

__device__ void multiply(const real* x, const real* w, Tile tile, Patch patch, real* sums) {
    const int line = tile.depth + PAD;
    x += patch.row * line + patch.part * patch.terms;
    w += patch.column * line + patch.part * patch.terms;
#pragma unroll
    for (int k = 0; k < patch.terms; ++k)
#pragma unroll
        for (int s = 0; s < 16; ++s) sums[s] += x[s / 4 * patch.rows_apart * line + k] * w[s % 4 * patch.columns_apart * line + k];
}

// Stores each part's sums (rows, columns), one part after another.
__device__ void store_sums(real* buffer, Tile tile, Patch patch, const real* sums) {
#pragma unroll
    for (int s = 0; s < 16; ++s) {
        const int row = patch.row + s / 4 * patch.rows_apart, column = patch.column + s % 4 * patch.columns_apart;
        buffer[(patch.part * tile.rows + row) * tile.columns + column] = sums[s];
    }
}

__device__ real total(const real* buffer, Tile tile, Patch patch, int row, int column) {
    real sum = 0;
#pragma unroll
    for (int part = 0; part < patch.parts; ++part) sum += buffer[(part * tile.rows + row) * tile.columns + column];
    return sum;
}

// ---- Kernels. Grid: blocks of units along x, blocks of rows along y

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE) lstm_step(const real* a, const real* Wh, const real* h_prev, const real* c_prev,
                                                                                real* h, real* c, real* gates, real* tanh_c,
                                                                                int first, int before, int after, int n, int H) {
    __shared__ real buffer[BUFFER];
    const Tile tile = FORWARD;
    const Patch patch = patch_of(tile);
    const int row0 = blockIdx.y * tile.rows, unit0 = blockIdx.x * FORWARD_UNITS;
    real *const h_tile = buffer, *const w_tile = buffer + tile.rows * (tile.depth + PAD);
    const real *from_h = h_prev + (long long)(before + row0) * H, *from_w = Wh + unit0;

    real sums[16] = {}, h_share[LOADS], w_share[LOADS];
    load_lines(from_h, H, n - row0, H, tile.rows, tile.depth, h_share);
    load_gates(from_w, H, H - unit0, H, w_share);
    for (int left = H; left > 0; left -= tile.depth) {
        store_lines(h_tile, tile.rows, tile.depth, h_share);
        store_gates(w_tile, tile.depth, w_share);
        load_lines(from_h += tile.depth, H, n - row0, left - tile.depth, tile.rows, tile.depth, h_share);
        load_gates(from_w += (long long)tile.depth * 4 * H, H, H - unit0, left - tile.depth, w_share);
        // After the loads: otherwise the compiler moves them below the products, which would wait for them
        __syncthreads();
        multiply(h_tile, w_tile, tile, patch, sums);
        __syncthreads();  // all threads have used the tiles before the next tiles, or the sums, overwrite them
    }
    store_sums(buffer, tile, patch, sums);
    __syncthreads();

    const int block_row = threadIdx.x / FORWARD_UNITS, block_unit = threadIdx.x % FORWARD_UNITS;
    const long long row = row0 + block_row, unit = unit0 + block_unit;
    if (row >= n || unit >= H) return;
    const long long at = (first + row) * H + unit, at_i = (first + row) * 4 * H + unit, at_after = (after + row) * H + unit;
    lstm_unit(a[at_i] + total(buffer, tile, patch, block_row, block_unit),
              a[at_i + H] + total(buffer, tile, patch, block_row, block_unit + FORWARD_UNITS),
              a[at_i + 2 * H] + total(buffer, tile, patch, block_row, block_unit + 2 * FORWARD_UNITS),
              a[at_i + 3 * H] + total(buffer, tile, patch, block_row, block_unit + 3 * FORWARD_UNITS),
              c_prev[(before + row) * H + unit], H, gates + at_i, c + at_after, tanh_c + at, h + at_after);
}

// The first `more` sequences have a next step, whose rows begin at first + n; its da @ Wh.T is added
// to dh, which comes from the layer above. dc, with a row per sequence, holds the gradient of c from
// the next step, and afterwards the gradient of c_prev.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE) lstm_step_backward(const real* dh, const real* gates, const real* tanh_c,
                                                                                         const real* c_prev, const real* Wh, real* da, real* dc,
                                                                                         int first, int before, int n, int more, int H) {
    __shared__ real buffer[BUFFER];
    const Tile tile = BACKWARD;
    const Patch patch = patch_of(tile);
    const int row0 = blockIdx.y * tile.rows, unit0 = blockIdx.x * BACKWARD_UNITS;
    const int width = 4 * H, terms = row0 < more ? width : 0;  // if all of a block's sequences end here, it multiplies nothing
    real *const da_tile = buffer, *const w_tile = buffer + tile.rows * (tile.depth + PAD);
    const real *from_da = da + (long long)(first + n + row0) * width, *from_w = Wh + (long long)unit0 * width;

    real sums[16] = {}, da_share[LOADS], w_share[LOADS];
    load_lines(from_da, width, more - row0, terms, tile.rows, tile.depth, da_share);
    load_lines(from_w, width, H - unit0, terms, tile.columns, tile.depth, w_share);
    for (int left = terms; left > 0; left -= tile.depth) {
        store_lines(da_tile, tile.rows, tile.depth, da_share);
        store_lines(w_tile, tile.columns, tile.depth, w_share);
        load_lines(from_da += tile.depth, width, more - row0, left - tile.depth, tile.rows, tile.depth, da_share);
        load_lines(from_w += tile.depth, width, H - unit0, left - tile.depth, tile.columns, tile.depth, w_share);
        __syncthreads();  // as in lstm_step
        multiply(da_tile, w_tile, tile, patch, sums);
        __syncthreads();
    }
    store_sums(buffer, tile, patch, sums);
    __syncthreads();

    const int block_row = threadIdx.x / BACKWARD_UNITS, block_unit = threadIdx.x % BACKWARD_UNITS;
    const long long row = row0 + block_row, unit = unit0 + block_unit, k = row * H + unit;
    if (row >= n || unit >= H) return;
    const long long at = (first + row) * H + unit, at_i = (first + row) * 4 * H + unit;
    const real from_next = row < more ? total(buffer, tile, patch, block_row, block_unit) : 0, dc_next = row < more ? dc[k] : 0;
    lstm_unit_backward(dh[at] + from_next, dc_next, gates + at_i, tanh_c[at], c_prev[(before + row) * H + unit], H, da + at_i, dc + k);
}
