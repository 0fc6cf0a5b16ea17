// Stochastic rounding, as ops/cast states it: integer addition below the kept mantissa, then truncation.
#pragma once
#include "dtype.cuh"

// bf16 bits of x, up when the high 16 bits of the word say so.
__device__ __forceinline__ uint16_t stochastic_bf16(float x, uint32_t word) {
    uint32_t bits = __float_as_uint(x);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return (uint16_t)(nan ? bits >> 16 | 0x40 : (bits + (word >> 16)) >> 16);
}

// f16 bits of x, up when the high bits of the word say so.
__device__ __forceinline__ uint16_t stochastic_f16(float x, uint32_t word) {
    constexpr uint32_t DROPPED = (1u << 13) - 1, NORMAL = (127u - 14) << 23;
    uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu, rounded;
    if (magnitude < NORMAL) {
        // Below 2^-14 all units are 2^-24, and counts of them are exact.
        float count = __uint_as_float(magnitude) * 16777216.0f;
        float down = floorf(count);
        bool up = (float)(int)(word >> 8) * (1.0f / 16777216.0f) < count - down;
        rounded = __float_as_uint((up ? down + 1.0f : down) * (1.0f / 16777216.0f));
    } else {
        rounded = magnitude > 0x7f800000u ? magnitude : (magnitude + (word >> 19)) & ~DROPPED;
    }
    // What is left of the conversion is exact, or 65536 and more.
    return __half_as_ushort(from_f32<f16>(__uint_as_float(rounded | (bits & 0x80000000u))));
}
