// Draws the dropout masks of a training step, for features, words and hidden states, in one launch.
// Contract: Ops.dropout_masks.
//
// The masks are features (N, D), words (K, W) and hidden (R, H), each with the numbers of its rows.
// One thread makes one block of Philox 4x64-10: 256 bits, 16 for each of 16 units of a row. Bits
// beyond the row's end are unused.
typedef REAL real;
typedef unsigned long long word;

struct Words {
    word a, b, c, d;
};

// Ten rounds of Philox 4x64 on a counter.
__device__ Words philox(Words x, word key, word key2) {
    for (int round = 0; round < 10; ++round) {
        const word first = 0xD2E7470EE14C6C93ULL, second = 0xCA5A826395121157ULL;
        const Words y = {__umul64hi(second, x.c) ^ x.b ^ key, second * x.c, __umul64hi(first, x.a) ^ x.d ^ key2, first * x.a};
        x = y;
        key += 0x9E3779B97F4A7C15ULL;
        key2 += 0xBB67AE8584CAA73BULL;
    }
    return x;
}

__device__ long long blocks_of(int width) { return (width + 15) / 16; }

// Draws block k of a mask; blocks are counted row by row.
__device__ void draw(const int* numbers, unsigned char* mask, int width, long long k, int stream, int limit, word seed, word step) {
    const long long row = k / blocks_of(width), block = k % blocks_of(width);
    const Words counter = {1 + numbers[row] * (word)blocks_of(width) + block, 0, 0, step};
    const bool keeps_units = numbers[row] >= 0;  // -1: no unit is kept
    const Words bits = philox(counter, seed, stream);
    const word words[4] = {bits.a, bits.b, bits.c, bits.d};
    unsigned char* out = mask + row * width + 16 * block;
    const long long left = width - 16 * block;
#pragma unroll  // so that `words` stays in registers
    for (int u = 0; u < 16; ++u)
        if (u < left) out[u] = keeps_units && (int)(words[u / 4] >> 16 * (u % 4) & 0xffff) < limit;
}

extern "C" __global__ void dropout_masks(const int* feature_numbers, const int* word_numbers, const int* hidden_numbers, unsigned char* features,
                                      unsigned char* words, unsigned char* hidden, int N, int D, int K, int W, int R, int H, int limit,
                                      long long seed, long long step) {
    const long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long n0 = N * blocks_of(D), n1 = n0 + K * blocks_of(W), n2 = n1 + R * blocks_of(H);
    if (k < n0) draw(feature_numbers, features, D, k, 0, limit, seed, step);
    else if (k < n1) draw(word_numbers, words, W, k - n0, 1, limit, seed, step);
    else if (k < n2) draw(hidden_numbers, hidden, H, k - n1, 2, limit, seed, step);
}
