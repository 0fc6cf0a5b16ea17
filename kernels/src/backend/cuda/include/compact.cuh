// Compact storage of f32, the bits of compact.rs and dynamic_map.rs. A warp holds a block of 256 elements, 8
// neighbouring ones in each lane.
#pragma once
#include "dtype.cuh"

// Elements that have a scale of their own, and those of a lane.
constexpr int BLOCK = 256, LANE = 8;

// The f32 of a weight and a remainder.
__device__ __forceinline__ float joined(uint16_t weight, int16_t remainder) {
    return __uint_as_float(((uint32_t)weight << 16) + (uint32_t)(int32_t)remainder);
}

// `DynamicMap` in dynamic_map.rs.
struct DynamicMap {
    float step[16], first[16], threshold[32], slope[32], offset[32], last[32];
    uint32_t is_signed;

    __device__ __forceinline__ float decode(uint8_t code) const {
        uint32_t sign = 0;
        float j = (float)(code + 1);
        if (is_signed) {
            float x = (float)(code - 127);
            sign = __float_as_uint(x) & 0x80000000u;
            j = __fmaf_rn(fabsf(x), 2.0f, 1.0f);
        }
        uint32_t bits = __float_as_uint(j), piece = bits >> 23 & 15;
        float value = __fmaf_rn(j - __uint_as_float(bits & 0x7f800000u), step[piece], first[piece]);
        return __uint_as_float(__float_as_uint(value) | sign);
    }

    __device__ __forceinline__ uint8_t encode(float x, float inverse) const {
        float r = __fmul_rn(x, inverse);
        if (is_signed)
            r = fabsf(r);
        // NaN, of blocks without a scale, becomes the least.
        constexpr float LEAST = 1.0f / 2147483648.0f;
        r = r > LEAST ? r : LEAST;
        uint32_t binade = __float_as_uint(r) >> 23 & 31;
        uint32_t piece = threshold[binade] <= r ? binade + 1 : binade;
        float rank = __fmaf_rn(r, slope[piece], offset[piece]);
        int magnitude = __float2int_rn(rank < last[piece] ? rank : last[piece]);
        if (!is_signed)
            return (uint8_t)magnitude;
        int below = 127 - magnitude;
        return (uint8_t)(__float_as_uint(x) >> 31 ? (below > 0 ? below : 0) : 127 + magnitude);
    }
};

static_assert(sizeof(DynamicMap) == 644, "DynamicMap in dynamic_map.rs has this layout");

// A copy of a map in shared memory, made by all threads of the block, which then synchronise.
__device__ __forceinline__ void copy_map(DynamicMap &to, const DynamicMap &from) {
    for (int i = (int)threadIdx.x; i < (int)(sizeof(DynamicMap) / 4); i += (int)blockDim.x)
        ((uint32_t *)&to)[i] = ((const uint32_t *)&from)[i];
}

// The scale of a block whose largest magnitude, as an integer, is `bits`; and what its values are multiplied by.
__device__ __forceinline__ float scale_of(uint32_t bits, float &inverse) {
    constexpr uint32_t INF = 0x7f800000u, LEAST = 0x00800000u;
    float absmax = __uint_as_float(bits >= INF ? 0x7fc00000u : bits < LEAST ? 0 : bits);
    inverse = bits < LEAST ? 0.0f : __fdiv_rn(1.0f, absmax);
    return absmax;
}

// The largest magnitude of a warp's elements, as an integer.
__device__ __forceinline__ uint32_t largest(const float (&x)[LANE]) {
    uint32_t most = 0;
#pragma unroll
    for (int e = 0; e < LANE; e++)
        most = max(most, __float_as_uint(x[e]) & 0x7fffffffu);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        most = max(most, __shfl_xor_sync(0xffffffffu, most, distance));
    return most;
}

// Moves the n elements of a lane that there are, all LANE of them as few accesses where `whole` says that the address
// allows it. Elements beyond n are 0.
template <typename T> __device__ __forceinline__ void load_lane(const T *p, int n, bool whole, T (&x)[LANE]) {
    constexpr int N = sizeof(T) * LANE > 16 ? 16 / (int)sizeof(T) : LANE;
    if (whole) {
#pragma unroll
        for (int a = 0; a < LANE / N; a++) {
            Pack<T, N> pack = ((const Pack<T, N> *)p)[a];
#pragma unroll
            for (int e = 0; e < N; e++)
                x[a * N + e] = pack.at[e];
        }
    } else {
#pragma unroll
        for (int e = 0; e < LANE; e++)
            x[e] = e < n ? p[e] : T(0);
    }
}
template <typename T> __device__ __forceinline__ void store_lane(T *p, int n, bool whole, const T (&x)[LANE]) {
    constexpr int N = sizeof(T) * LANE > 16 ? 16 / (int)sizeof(T) : LANE;
    if (whole) {
#pragma unroll
        for (int a = 0; a < LANE / N; a++) {
            Pack<T, N> pack;
#pragma unroll
            for (int e = 0; e < N; e++)
                pack.at[e] = x[a * N + e];
            store_pack(p + a * N, pack);
        }
    } else {
#pragma unroll
        for (int e = 0; e < LANE; e++)
            if (e < n)
                p[e] = x[e];
    }
}
