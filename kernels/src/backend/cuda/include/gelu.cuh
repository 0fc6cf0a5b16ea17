// GELU and its derivative, within the tolerance that gelu/mod.rs states.
#pragma once

enum class GeluKind { EXACT, TANH };

constexpr float GELU_SCALE = 0.7978846f;   // sqrt(2 / pi)
constexpr float GELU_DENSITY = 0.3989423f; // 1 / sqrt(2 pi)
constexpr float GELU_CUBIC = 0.044715f;
constexpr float SQRT_HALF = 0.70710678f;

// factor sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gelu_inner(float x, float factor) {
    return x * __fmaf_rn(x * x, factor * GELU_SCALE * GELU_CUBIC, factor * GELU_SCALE);
}

template <GeluKind KIND> __device__ __forceinline__ float gelu(float x) {
    if (KIND == GeluKind::EXACT)
        return x * __fmaf_rn(0.5f, erff(x * SQRT_HALF), 0.5f);
    // (1 + tanh u) / 2 = 1 / (1 + e^(-2u)) has no cancellation.
    return x / (1.0f + expf(gelu_inner(x, -2.0f)));
}

template <GeluKind KIND> __device__ __forceinline__ float gelu_gradient(float x) {
    if (KIND == GeluKind::EXACT)
        return __fmaf_rn(x * GELU_DENSITY, expf(x * x * -0.5f), __fmaf_rn(0.5f, erff(x * SQRT_HALF), 0.5f));
    // With q = e^(-2|u|): sigma(-2|u|) = q / (1 + q), and sigma' = q / (1 + q)^2.
    float q = expf(-gelu_inner(fabsf(x), 2.0f));
    float r = 1.0f / (1.0f + q);
    float tail = q * r;
    // The slope is 0 beyond 16, where x^2 must not overflow.
    float near = 16.0f < fabsf(x) ? 16.0f : x;
    float du = __fmaf_rn(near * near, 6.0f * GELU_SCALE * GELU_CUBIC, 2.0f * GELU_SCALE);
    // x du may overflow where the slope is 0.
    return __fmaf_rn(x, du * (tail * r), x < 0.0f ? tail : 1.0f - tail);
}
