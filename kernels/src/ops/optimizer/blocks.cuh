// One pass over optimizer state in any format: `BlocksParameters` of cuda.rs, and the bits of blocks.rs. A warp updates
// a block of 256 elements at a time.
#pragma once
#include "compact.cuh"
#include "optimizer.cuh"
#include "stochastic.cuh"

// Threads of a block: BLOCKS_THREADS in cuda.rs.
constexpr int BLOCKS_THREADS = 256;

// `DType` in dtype.rs.
enum Dtype : int32_t { DTYPE_NONE = 0, DTYPE_F32 = 1, DTYPE_BF16 = 2, DTYPE_F16 = 3 };

template <typename Rule> struct BlocksParameters {
    int64_t numel;
    const char *gradient;
    float *master;      // null: the weight and the remainder are the master, or the weight alone
    char *weight;       // null: the master is the weight
    int16_t *remainder; // null: there is none
    char *moment[2];
    float *absmax[2];
    const Control *control; // null: the call's own figures
    Philox weight_words, moment_words;
    DynamicMap map[2];
    int32_t gradient_dtype, weight_dtype, aligned;
    float gradient_scale;
    uint32_t padding;
    Rule rule;
};

// How moments are stored.
struct Float32 {};
struct Bfloat16 {};
struct Int8 {};

// The elements of a lane: where in the tensors, how many of them, and whether accesses may be wide.
struct Lane {
    int64_t at;
    int n;
    bool whole;

    template <typename T> __device__ __forceinline__ void load(const void *p, T (&x)[LANE]) const {
        load_lane((const T *)p + at, n, whole, x);
    }
    template <typename T> __device__ __forceinline__ void store(void *p, const T (&x)[LANE]) const {
        store_lane((T *)p + at, n, whole, x);
    }
    // Floats of a dtype as f32.
    __device__ __forceinline__ void load_floats(const void *p, int32_t dtype, float (&x)[LANE]) const {
        if (dtype == DTYPE_F32) {
            load(p, x);
            return;
        }
        uint16_t bits[LANE];
        load(p, bits);
#pragma unroll
        for (int e = 0; e < LANE; e++)
            x[e] = dtype == DTYPE_BF16 ? __uint_as_float((uint32_t)bits[e] << 16) : to_f32(__ushort_as_half(bits[e]));
    }
    // The random words.
    __device__ __forceinline__ void draw(const Philox &stream, uint32_t (&word)[LANE]) const {
        uint64_t index = stream.first + at;
        if (index % 4 == 0) {
            stream.words<LANE>(index, [](uint32_t (&)[4]) {}, word);
            return;
        }
#pragma unroll 1
        for (int e = 0; e < LANE; e++) {
            uint32_t one[1];
            stream.words<1>(index + e, [](uint32_t (&)[4]) {}, one);
#pragma unroll
            for (int k = 0; k < LANE; k++)
                if (k == e)
                    word[k] = one[0];
        }
    }
};

template <typename Rule>
__device__ __forceinline__ void load_master(const BlocksParameters<Rule> &p, const Lane &lane, float (&x)[LANE]) {
    if (p.master) {
        lane.load(p.master, x);
    } else if (p.remainder) {
        uint16_t weight[LANE];
        int16_t remainder[LANE];
        lane.load(p.weight, weight);
        lane.load(p.remainder, remainder);
#pragma unroll
        for (int e = 0; e < LANE; e++)
            x[e] = joined(weight[e], remainder[e]);
    } else {
        lane.load_floats(p.weight, p.weight_dtype, x);
    }
}

template <typename Rule>
__device__ __forceinline__ void store_master(const BlocksParameters<Rule> &p, const Philox &words, const Lane &lane,
                                             const float (&x)[LANE]) {
    if (p.master)
        lane.store(p.master, x);
    if (p.weight_dtype == DTYPE_NONE)
        return;
    if (p.weight_dtype == DTYPE_F32) {
        lane.store(p.weight, x);
        return;
    }
    uint16_t bits[LANE];
    if (p.master || p.remainder) {
#pragma unroll
        for (int e = 0; e < LANE; e++)
            bits[e] = p.weight_dtype == DTYPE_BF16 ? __bfloat16_as_ushort(bf16_nearest_away(x[e]))
                                                   : __half_as_ushort(from_f32<f16>(x[e]));
    } else {
        uint32_t word[LANE];
        lane.draw(words, word);
#pragma unroll
        for (int e = 0; e < LANE; e++)
            bits[e] = p.weight_dtype == DTYPE_BF16 ? stochastic_bf16(x[e], word[e]) : stochastic_f16(x[e], word[e]);
    }
    lane.store(p.weight, bits);
    if (p.remainder) {
        int16_t remainder[LANE];
#pragma unroll
        for (int e = 0; e < LANE; e++)
            remainder[e] = (int16_t)__float_as_uint(x[e]);
        lane.store(p.remainder, remainder);
    }
}

__device__ __forceinline__ void load_moment(Float32, const void *p, const float *, const DynamicMap &, const Lane &lane,
                                            float (&x)[LANE]) {
    lane.load(p, x);
}
__device__ __forceinline__ void load_moment(Bfloat16, const void *p, const float *, const DynamicMap &,
                                            const Lane &lane, float (&x)[LANE]) {
    lane.load_floats(p, DTYPE_BF16, x);
}
__device__ __forceinline__ void load_moment(Int8, const void *p, const float *absmax, const DynamicMap &map,
                                            const Lane &lane, float (&x)[LANE]) {
    uint8_t code[LANE];
    lane.load(p, code);
    float scale = absmax[lane.at / BLOCK];
#pragma unroll
    for (int e = 0; e < LANE; e++)
        x[e] = e < lane.n ? __fmul_rn(map.decode(code[e]), scale) : 0.0f;
}

// Moment `k`, whose random words are `word`.
__device__ __forceinline__ void store_moment(Float32, void *p, float *, const DynamicMap &, const Lane &lane, int,
                                             const uint32_t (&)[LANE], const float (&x)[LANE]) {
    lane.store(p, x);
}
__device__ __forceinline__ void store_moment(Bfloat16, void *p, float *, const DynamicMap &, const Lane &lane, int k,
                                             const uint32_t (&word)[LANE], const float (&x)[LANE]) {
    uint16_t bits[LANE];
#pragma unroll
    for (int e = 0; e < LANE; e++)
        bits[e] = stochastic_bf16(x[e], k == 0 ? word[e] : word[e] << 16);
    lane.store(p, bits);
}
// All lanes of the warp call it.
__device__ __forceinline__ void store_moment(Int8, void *p, float *absmax, const DynamicMap &map, const Lane &lane, int,
                                             const uint32_t (&)[LANE], const float (&x)[LANE]) {
    float inverse, scale = scale_of(largest(x), inverse);
    if (threadIdx.x % 32 == 0)
        absmax[lane.at / BLOCK] = scale;
    uint8_t code[LANE];
#pragma unroll
    for (int e = 0; e < LANE; e++)
        code[e] = map.encode(x[e], inverse);
    lane.store(p, code);
}

template <typename A, typename B> constexpr bool SAME = false;
template <typename A> constexpr bool SAME<A, A> = true;

template <int MOMENTS, typename Format, typename Rule>
__device__ __forceinline__ void update_blocks(const BlocksParameters<Rule> &p) {
    __shared__ DynamicMap map[MOMENTS + 1];
    if constexpr (SAME<Format, Int8>) {
#pragma unroll
        for (int k = 0; k < MOMENTS; k++)
            copy_map(map[k], p.map[k]);
        __syncthreads();
    }
    Rule rule = p.rule;
    float gradient_scale = p.gradient_scale;
    Philox weight_words = p.weight_words, moment_words = p.moment_words;
    if (p.control) {
        if (p.control->skipped)
            return;
        gradient_scale = p.control->gradient_scale;
        uint64_t step = p.control->step;
        rule.at_step(step);
        weight_words.step[0] = moment_words.step[0] = (uint32_t)step;
        weight_words.step[1] = moment_words.step[1] = (uint32_t)(step >> 32) << 30;
    }
    constexpr int WARPS = BLOCKS_THREADS / 32;
    int64_t blocks = (p.numel + BLOCK - 1) / BLOCK;
    for (int64_t b = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; b < blocks; b += (int64_t)gridDim.x * WARPS) {
        int64_t at = b * BLOCK + threadIdx.x % 32 * LANE, left = p.numel - at;
        Lane lane = {at, (int)(left < 0 ? 0 : left < LANE ? left : LANE), p.aligned && left >= LANE};
        float g[LANE], x[LANE], m[MOMENTS + 1][LANE];
        lane.load_floats(p.gradient, p.gradient_dtype, g);
        load_master(p, lane, x);
#pragma unroll
        for (int k = 0; k < MOMENTS; k++)
            load_moment(Format(), p.moment[k], p.absmax[k], map[k], lane, m[k]);
#pragma unroll
        for (int e = 0; e < LANE; e++) {
            float moment[MOMENTS + 1];
#pragma unroll
            for (int k = 0; k < MOMENTS; k++)
                moment[k] = m[k][e];
            x[e] = rule.update(__fmul_rn(g[e], gradient_scale), x[e], moment);
#pragma unroll
            for (int k = 0; k < MOMENTS; k++)
                m[k][e] = e < lane.n ? moment[k] : 0.0f;
        }
        store_master(p, weight_words, lane, x);
        uint32_t word[LANE] = {};
        if constexpr (SAME<Format, Bfloat16>)
            lane.draw(moment_words, word);
#pragma unroll
        for (int k = 0; k < MOMENTS; k++)
            store_moment(Format(), p.moment[k], p.absmax[k], map[k], lane, k, word, m[k]);
    }
}

// Declares the kernel `name`_blocks_format of a rule.
#define OPTIMIZER_BLOCKS_OF(name, MOMENTS, Rule, suffix, Format)                                                       \
    extern "C" __global__ void __launch_bounds__(BLOCKS_THREADS)                                                       \
        name##_blocks_##suffix(const __grid_constant__ BlocksParameters<Rule> p) {                                     \
        update_blocks<MOMENTS, Format>(p);                                                                             \
    }
#define OPTIMIZER_BLOCKS(name, MOMENTS, Rule)                                                                          \
    OPTIMIZER_BLOCKS_OF(name, MOMENTS, Rule, f32, Float32)                                                             \
    OPTIMIZER_BLOCKS_OF(name, MOMENTS, Rule, bf16, Bfloat16)                                                           \
    OPTIMIZER_BLOCKS_OF(name, MOMENTS, Rule, int8, Int8)
