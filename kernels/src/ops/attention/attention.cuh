// What the attention kernels take, and tiles of 16-bit rows in shared memory: loading, multiplying, storing.
#pragma once
#include "mma.cuh"
#include "reduce.cuh"

// `[b, t, h, d]` with contiguous rows; strides in elements.
struct Heads {
    char *data;
    int64_t batch, token, head;
    int64_t aligned; // whether every row begins at a multiple of 16 bytes

    template <typename T> __device__ __forceinline__ T *at(int64_t n, int64_t h) const {
        return (T *)data + n * batch + h * head;
    }
};

// f32 `[b, h, t]`; null: none.
struct Statistics {
    float *data;
    int64_t batch, head;
    __device__ __forceinline__ float *at(int64_t n, int64_t h) const { return data + n * batch + h * head; }
};

// Both passes. Scores are kept in base 2: `scale2` is scale log2(e).
struct Problem {
    Heads q, k, v;
    int32_t t, s, d;
    int32_t query_heads, key_heads, group; // query heads of a key head
    int32_t blocks;                        // blocks of rows of a head
    float scale, scale2;
    int32_t causal;

    // How far the keys that query i sees go: j <= i + reach, and j < s.
    __device__ __forceinline__ int reach() const { return causal ? s - t : s; }
};

struct ForwardParameters {
    Problem problem;
    Heads out;
    Statistics log_sum_exp;
};

// `sums` holds two rows of `padded` values for each query head, both ready for use: the base-2 log_sum_exp, then
// D = sum_c dout out. What pads is infinity and 0, so that weights there are 0.
struct BackwardParameters {
    Problem problem;
    Heads out, dout, dq, dk, dv;
    Statistics log_sum_exp;
    float *sums;
    int64_t padded;
    int64_t heads; // b * query_heads

    __device__ __forceinline__ const float *log_sums(int64_t head) const { return sums + head * padded; }
    __device__ __forceinline__ const float *products(int64_t head) const { return sums + (heads + head) * padded; }
};

// A block's ROWS rows of queries: the first, the head that they are of, and the keys that any and that all of them see.
template <int ROWS> struct QueryRows {
    unsigned head;
    int first, n, h, end, seen;

    // The last queries of a head have most to do when causal, so they go first.
    __device__ __forceinline__ explicit QueryRows(const Problem &of)
        : head(blockIdx.x / of.blocks), first((of.blocks - 1 - (int)(blockIdx.x % of.blocks)) * ROWS),
          n(head / of.query_heads), h(head % of.query_heads), end(min(of.s, first + ROWS + of.reach())),
          seen(min(of.s, first + 1 + of.reach())) {}

    __device__ __forceinline__ bool sees(const Problem &of, int row, int key) const {
        return key <= first + row + of.reach() && key < of.s;
    }
};

constexpr float LOG2_E = 1.4426950408889634f, LOG_2 = 0.6931471805599453f;
constexpr float INFINITE = __builtin_huge_valf();

// f16 has few small values: weights are multiplied by 2^LIFT before they become f16.
template <typename T> constexpr int LIFT = 0;
template <> constexpr int LIFT<f16> = 14;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 2^exponent for a normal result.
__device__ __forceinline__ float power_of_2(int exponent) { return __int_as_float((exponent + 127) << 23); }

// The largest power of 2 up to n.
__device__ constexpr int power_of_2_in(int n) { return n < 2 ? 1 : 2 * power_of_2_in(n / 2); }

// Rows of D 16-bit elements in shared memory. Chunks of 16 bytes are exchanged within a row so that eight rows' chunks
// of one column lie in different banks.
template <typename T, int D> struct Tile {
    static constexpr int CHUNKS = D / 8;
    static constexpr int ROW_BYTES = D * 2;

    static __device__ __forceinline__ int exchange(int row) { return CHUNKS % 8 == 0 ? row % 8 : row / 2 % 4; }
    static __device__ __forceinline__ int offset(int row, int chunk) { return row * D + (chunk ^ exchange(row)) * 8; }

    // How THREADS threads share the loads: each has a chunk of every STEP-th row.
    template <int THREADS> static constexpr int STEP = power_of_2_in(THREADS / CHUNKS);

    // Where this thread's part of the rows from `from` begins.
    static __device__ __forceinline__ const T *part(const T *from, const Heads &heads) {
        return from + (int)threadIdx.x / CHUNKS * heads.token + threadIdx.x % CHUNKS * 8;
    }

    // Loads `rows` of ROWS rows of `d` of D elements, and zeros for the rest. All threads take part.
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void load(T *tile, const T *part, const Heads &heads, int rows, int d) {
        int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        rows = chunk * 8 < d ? rows - row : 0;
        if (row >= STEP<THREADS>)
            return;
        if (heads.aligned) {
#pragma unroll
            for (int i = 0; i < ROWS; i += STEP<THREADS>) {
                copy_16_async(tile + offset(row + i, chunk), part, i < rows ? 16 : 0);
                part += STEP<THREADS> * heads.token;
            }
            return;
        }
#pragma unroll 1
        for (int i = 0; i < ROWS; i += STEP<THREADS>) {
            Pack<T, 8> pack;
#pragma unroll
            for (int e = 0; e < 8; e++)
                pack.at[e] = i < rows ? part[e] : from_f32<T>(0);
            *(Pack<T, 8> *)(tile + offset(row + i, chunk)) = pack;
            part += STEP<THREADS> * heads.token;
        }
    }

    // Stores `rows` of ROWS rows, of each the elements from chunk `first` to `d`.
    template <int ROWS, int THREADS>
    static __device__ __forceinline__ void store(const T *tile, T *to, const Heads &heads, int rows, int d,
                                                 int first = 0) {
#pragma unroll 1
        for (int at = threadIdx.x; at < ROWS * CHUNKS; at += THREADS) {
            int row = at / CHUNKS, chunk = at % CHUNKS;
            if (row >= rows || chunk < first || chunk * 8 >= d)
                continue;
            Pack<T, 8> pack = *(const Pack<T, 8> *)(tile + offset(row, chunk));
            T *y = to + row * heads.token + chunk * 8;
            if (heads.aligned) {
                *(Pack<T, 8> *)y = pack;
            } else {
#pragma unroll
                for (int e = 0; e < 8; e++)
                    y[e] = pack.at[e];
            }
        }
    }

    // Changes the sign of ROWS rows.
    template <int ROWS, int THREADS> static __device__ __forceinline__ void negate(T *tile) {
#pragma unroll 1
        for (int at = threadIdx.x; at < ROWS * D / 2; at += THREADS)
            ((uint32_t *)tile)[at] ^= 0x80008000u;
    }

    // Addresses for this lane of the 16x16 tiles along 16 rows from `row`: lanes 0 to 15 give the upper eight rows,
    // left and right, the others the lower eight. One for all purposes, to keep registers free.
    struct Lane {
        uint32_t row, chunk;
        __device__ __forceinline__ uint32_t at(int step) const { return row + (chunk ^ (uint32_t)step * 32); }
    };

    static __device__ __forceinline__ Lane lane(const T *tile, int row) {
        int i, at;
        asm volatile("mov.u32 %0, %%laneid;" : "=r"(i)); // read again each time, rather than kept in a register
        at = i % 8 + i / 16 * 8;
        return {shared_address(tile) + (row + at) * ROW_BYTES, (uint32_t)(i / 8 % 2 ^ exchange(at)) * 16};
    }
};

// Two values as the halves of a word, the first in the low one.
__device__ __forceinline__ uint32_t two(float x, float y, bf16) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return *(uint32_t *)&pair;
}
__device__ __forceinline__ uint32_t two(float x, float y, f16) {
    __half2 pair = __floats2half2_rn(x, y);
    return *(uint32_t *)&pair;
}

// Calls f(value, m, n, e) for the values of fragments.
template <int M, int N, typename F> __device__ __forceinline__ void each(float (&c)[M][N][4], F f) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                f(c[m][n][e], m, n, e);
}

template <int M, int N> __device__ __forceinline__ void clear(float (&c)[M][N][4]) {
    each(c, [](float &value, int, int, int) { value = 0; });
}

// Weights whose row does not see their column, by `sees(m, half, column)`, become `value`.
template <int M, int N, typename Sees>
__device__ __forceinline__ void mask(float (&w)[M][N][4], float value, Sees sees) {
    int lane = threadIdx.x % 32;
    each(w, [&](float &weight, int m, int n, int e) {
        if (!sees(m, e / 2, n * 8 + lane % 4 * 2 + e % 2))
            weight = value;
    });
}

// c = a b^T: 16 M rows of the tile a from `row`, and 8 N rows of the tile b. STEPS at once: all would need more
// registers than there are.
template <typename T, int D, int STEPS = D / 32, int M, int N>
__device__ __forceinline__ void products(float (&c)[M][N][4], const T *a, int row, const T *b) {
    using Rows = Tile<T, D>;
    clear(c);
    auto left = Rows::lane(a, row), right = Rows::lane(b, 0);
#pragma unroll STEPS
    for (int step = 0; step < D / 16; step++) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrix_x4(x[m], left.at(step) + m * 16 * Rows::ROW_BYTES);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t y[4];
            load_matrix_x4(y, right.at(step) + n * 8 * Rows::ROW_BYTES);
#pragma unroll
            for (int m = 0; m < M; m++) {
                uint32_t rows[4] = {x[m][0], x[m][2], x[m][1], x[m][3]};
                mma_16x8x16(c[m][n], rows, {y[0], y[1]}, T());
                mma_16x8x16(c[m][n + 1], rows, {y[2], y[3]}, T());
            }
        }
    }
}

// c += w b: weights w as fragments of 8 K columns, K/2 times 16 rows of the tile b, and 8 N of its columns from 16
// times `column`.
template <typename T, int D, int M, int K, int N>
__device__ __forceinline__ void accumulate(float (&c)[M][N][4], const float (&w)[M][K][4], const T *b, int column) {
    using Rows = Tile<T, D>;
    auto right = Rows::lane(b, 0);
#pragma unroll
    for (int k = 0; k < K; k += 2) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                x[m][e] = two(w[m][k + e / 2][e % 2 * 2], w[m][k + e / 2][e % 2 * 2 + 1], T());
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t y[4];
            load_matrix_x4_transposed(y, right.at(column + n / 2) + k * 8 * Rows::ROW_BYTES);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16(c[m][n], x[m], {y[0], y[2]}, T());
                mma_16x8x16(c[m][n + 1], x[m], {y[1], y[3]}, T());
            }
        }
    }
}

template <typename T> __device__ __forceinline__ bool is_not_finite(uint32_t bits) {
    constexpr uint32_t EXPONENT = LIFT<T> != 0 ? 0x7c00 : 0x7f80;
    return (bits & EXPONENT) == EXPONENT;
}

template <typename T> __device__ __forceinline__ bool either_not_finite(uint32_t word) {
    return is_not_finite<T>(word) || is_not_finite<T>(word >> 16);
}

// Before `accumulate` with weights that are 0 where `sees(m, half, row of b)` is false: 0 times NaN is NaN, so what is
// not finite in b is added to the rows that see it, and leaves b. All threads come here, done with b.
template <typename T, int D, int ROWS, int THREADS, int M, int N, typename Sees>
__device__ __forceinline__ void withdraw(float (&c)[M][N][4], T *b, int column, Sees sees) {
    using Rows = Tile<T, D>;
    bool found = false;
#pragma unroll 4
    for (int at = threadIdx.x; at < ROWS * D / 8; at += THREADS) {
        uint4 words = ((const uint4 *)b)[at];
        found |= either_not_finite<T>(words.x) | either_not_finite<T>(words.y) | either_not_finite<T>(words.z) |
                 either_not_finite<T>(words.w);
    }
    if (!__syncthreads_or(found))
        return;
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll 1
        for (int row = 0; row < ROWS; row++) {
            uint32_t word = *(const uint32_t *)(b + Rows::offset(row, column * 2 + n) + lane % 4 * 2);
            if (!either_not_finite<T>(word))
                continue;
            const T *pair = (const T *)&word;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (sees(m, e / 2, row) && is_not_finite<T>(word >> e % 2 * 16))
                        c[m][n][e] += to_f32(pair[e % 2]);
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < ROWS * D / 2; at += THREADS) {
        uint32_t word = ((const uint32_t *)b)[at];
        word &= (is_not_finite<T>(word) ? 0 : 0xffffu) | (is_not_finite<T>(word >> 16) ? 0 : 0xffff0000u);
        ((uint32_t *)b)[at] = word;
    }
    __syncthreads();
}

// Fragments, times two factors, to 16 M rows of the tile from `row`, 8 N columns from 16 times `column`.
template <typename T, int D, int M, int N>
__device__ __forceinline__ void put(T *tile, const float (&c)[M][N][4], int row, int column, float f, float g) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int at = row + m * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int n = 0; n < N; n++)
                *(uint32_t *)(tile + Tile<T, D>::offset(at, column * 2 + n) + lane % 4 * 2) =
                    two(c[m][n][half * 2] * f * g, c[m][n][half * 2 + 1] * f * g, T());
        }
}
