// Gradients of weights as f16: they may be far smaller or larger than what f16 holds, so a warp keeps them times a
// power of 2, lower when they grow. bf16 holds all of them.
#pragma once
#include "attention.cuh"

template <typename T> struct Lifted {
    __device__ __forceinline__ float inverse() const { return 1; }
    template <int M, int K, int N> __device__ __forceinline__ void apply(float (&)[M][K][4], float (&)[M][N][4]) {}
};

template <> struct Lifted<f16> {
    float most = 0;
    int exponent = 126;

    __device__ __forceinline__ float inverse() const { return power_of_2(-exponent) * power_of_2(-LIFT<f16>); }

    // Multiplies the gradients, and what is to be added to them becomes a multiple of the same power.
    template <int M, int K, int N>
    __device__ __forceinline__ void apply(float (&gradients)[M][K][4], float (&total)[M][N][4]) {
        float largest = 0;
        each(gradients, [&](float &value, int, int, int) { largest = fmaxf(largest, fabsf(value)); });
        largest = warp_max(largest);
        if (largest > most) {
            most = largest;
            // The largest becomes 2^13 to 2^14.
            int next = min(13 - (int)(__float_as_uint(largest) >> 23) + 127, 126);
            next = max(next, -126 + LIFT<f16>);
            if (next < exponent) {
                float factor = next - exponent < -126 ? 0 : power_of_2(next - exponent);
                each(total, [&](float &value, int, int, int) { value *= factor; });
                exponent = next;
            }
        }
        float factor = power_of_2(exponent);
        each(gradients, [&](float &value, int, int, int) { value *= factor; });
    }
};
