// What the kernels of the matrix product share: their parameters, and the way from sums to c.
#pragma once
#include <cstdint>
#include "dtype.cuh"
#include "gelu.cuh"

enum Activation { NONE, GELU_TANH, GELU_EXACT, GELU_TANH_BACKWARD, GELU_EXACT_BACKWARD };

struct Matrix {
    char *data;
    int64_t stride;          // elements from row to row
    int64_t batch_stride[3]; // elements along the batch's dimensions, outermost first
};

// `Parameters` of cuda.rs.
struct Parameters {
    Matrix a, b, c;
    Matrix saved; // pre-activations; no data: none
    const char *bias;
    const float *factors; // alpha and beta in place of those below; null: none
    float *sums;          // unscaled sums of each part of k, rows padded to whole groups; null: c is stored at once
    int64_t m, n, k;
    int64_t part; // elements of k in a part
    int64_t batch[3];
    int64_t first_batch; // of this launch
    int64_t batches;     // of all launches
    float alpha, beta;
    int32_t activation;
    int32_t parts;
    int32_t transpose_a, transpose_b;
    int32_t c_f32, bias_f32; // 0: the dtype of a
    // Whether whole groups of elements can be accessed at once.
    int32_t a_aligned, b_aligned, c_aligned, saved_aligned, bias_aligned;
    int32_t padding;
};

// Columns in a group: sums are stored in whole ones.
constexpr int GROUP = 4;

__device__ __forceinline__ int64_t batch_offset(const Parameters &p, const Matrix &matrix, int64_t batch) {
    if (p.batches == 1)
        return 0;
    // The launch is refused where 32 bits do not count the batch.
    uint32_t index = (uint32_t)batch, inner = (uint32_t)p.batch[2], middle = (uint32_t)p.batch[1];
    uint32_t outer = index / inner;
    return index % inner * matrix.batch_stride[2] + outer % middle * matrix.batch_stride[1] +
           outer / middle * matrix.batch_stride[0];
}

template <typename T, int W> constexpr int ACCESS = sizeof(T) * W > 16 ? 16 / sizeof(T) : W;

// W values in a row, of which the first `count` exist.
template <typename T, int W>
__device__ __forceinline__ void load_group(float (&x)[W], const T *from, bool aligned, int count) {
    if (aligned && count >= W) {
        constexpr int N = ACCESS<T, W>;
#pragma unroll
        for (int i = 0; i < W; i += N) {
            Pack<T, N> pack = *(const Pack<T, N> *)(from + i);
#pragma unroll
            for (int j = 0; j < N; j++)
                x[i + j] = to_f32(pack.at[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; i++)
            x[i] = i < count ? to_f32(from[i]) : 0.0f;
    }
}

template <typename T, int W>
__device__ __forceinline__ void store_group(const float (&x)[W], T *to, bool aligned, int count) {
    if (aligned && count >= W) {
        constexpr int N = ACCESS<T, W>;
#pragma unroll
        for (int i = 0; i < W; i += N) {
            Pack<T, N> pack;
#pragma unroll
            for (int j = 0; j < N; j++)
                pack.at[j] = from_f32<T>(x[i + j]);
            *(Pack<T, N> *)(to + i) = pack;
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; i++)
            if (i < count)
                to[i] = from_f32<T>(x[i]);
    }
}

// Where c and the pre-activations of a matrix of the batch begin, in elements.
struct Place {
    int64_t c, saved;

    __device__ __forceinline__ Place(const Parameters &p, int64_t batch)
        : c(batch_offset(p, p.c, batch)), saved(p.saved.data ? batch_offset(p, p.saved, batch) : 0) {}
};

template <typename T, typename C, int W>
__device__ __forceinline__ void finish_group(const Parameters &p, const Place &place, int64_t row, int64_t column,
                                             float (&x)[W]) {
    int count = (int)min(p.n - column, (int64_t)W);
    C *c = (C *)p.c.data + place.c + row * p.c.stride + column;
    C *saved = (C *)p.saved.data + place.saved + row * p.saved.stride + column;
    float other[W];
    float alpha = p.factors == nullptr ? p.alpha : p.factors[0];
    float beta = p.factors == nullptr ? p.beta : p.factors[1];
#pragma unroll
    for (int i = 0; i < W; i++)
        x[i] = alpha * x[i];
    if (p.activation >= GELU_TANH_BACKWARD) {
        load_group(other, saved, p.saved_aligned, count);
        if (p.activation == GELU_TANH_BACKWARD) {
#pragma unroll
            for (int i = 0; i < W; i++)
                x[i] *= gelu_gradient<GeluKind::TANH>(other[i]);
        } else {
#pragma unroll
            for (int i = 0; i < W; i++)
                x[i] *= gelu_gradient<GeluKind::EXACT>(other[i]);
        }
    }
    if (beta != 0.0f) {
        load_group(other, c, p.c_aligned, count);
#pragma unroll
        for (int i = 0; i < W; i++)
            x[i] = __fmaf_rn(beta, other[i], x[i]);
    }
    if (p.bias) {
        if (sizeof(T) == sizeof(float) || p.bias_f32)
            load_group(other, (const float *)p.bias + column, p.bias_aligned, count);
        else
            load_group(other, (const T *)p.bias + column, p.bias_aligned, count);
#pragma unroll
        for (int i = 0; i < W; i++)
            x[i] += other[i];
    }
    if (p.activation == GELU_TANH || p.activation == GELU_EXACT) {
        if (p.saved.data)
            store_group(x, saved, p.saved_aligned, count);
        if (p.activation == GELU_TANH) {
#pragma unroll
            for (int i = 0; i < W; i++)
                x[i] = gelu<GeluKind::TANH>(x[i]);
        } else {
#pragma unroll
            for (int i = 0; i < W; i++)
                x[i] = gelu<GeluKind::EXACT>(x[i]);
        }
    }
    store_group(x, c, p.c_aligned, count);
}

template <typename T, int W>
__device__ __forceinline__ void finish_in_dtype(const Parameters &p, const Place &place, int64_t row, int64_t column,
                                                float (&x)[W]) {
    if (sizeof(T) == sizeof(float) || p.c_f32)
        finish_group<T, float>(p, place, row, column, x);
    else
        finish_group<T, T>(p, place, row, column, x);
}

// Columns of a row of sums.
__device__ __forceinline__ int64_t padded_columns(const Parameters &p) { return (p.n + GROUP - 1) / GROUP * GROUP; }

// W sums of `part` at a row and column of c become c's values, or are kept for `finish` to add.
template <typename T, int W>
__device__ __forceinline__ void put(const Parameters &p, const Place &place, int64_t batch, int part, int64_t row,
                                    int64_t column, float (&x)[W]) {
    if (row >= p.m || column >= p.n)
        return;
    if (p.sums) {
        float *to = p.sums + ((part * p.batches + batch) * p.m + row) * padded_columns(p) + column;
#pragma unroll
        for (int i = 0; i < W; i += GROUP)
            if (column + i < p.n)
                *(float4 *)(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
        finish_in_dtype<T>(p, place, row, column, x);
    }
}

// The tile of a block: bands of rows, so that blocks that run together share operands in the cache.
__device__ __forceinline__ void tile_of_block(int64_t rows, int64_t columns, int64_t &row, int64_t &column) {
    constexpr uint32_t BAND = 8;
    uint32_t block = blockIdx.x, band = BAND * (uint32_t)columns, first = block / band * BAND;
    uint32_t height = min((uint32_t)rows - first, BAND);
    row = first + block % band % height;
    column = block % band / height;
}
