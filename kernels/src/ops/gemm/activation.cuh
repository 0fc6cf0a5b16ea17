// GELU and its derivative, by the formulas of the CPU's gelu. Quotients are within 2 ulp.
#pragma once
#include <cstdint>

enum Activation { NONE, GELU_TANH, GELU_EXACT, GELU_TANH_BACKWARD, GELU_EXACT_BACKWARD };

// c[n-1] x^(n-1) + … + c[0] by Horner's rule.
template <int N> __device__ __forceinline__ float polynomial(float x, const float (&c)[N]) {
    float p = c[N - 1];
#pragma unroll
    for (int i = N - 2; i >= 0; i--)
        p = __fmaf_rn(p, x, c[i]);
    return p;
}

// e^x for x in -160 to 89, or NaN.
__device__ __forceinline__ float exp_in_range(float x) {
    constexpr float C[] = {1.0f, 1.0f, 0.49999993f, 0.16666509f, 0.04166853f, 0.008370136f, 0.0013811656f};
    float n = rintf(x * 1.44269504f);
    float r = __fmaf_rn(n, 2.1219444e-4f, __fmaf_rn(n, -0.6933594f, x));
    // 2^n in two factors, as n may be below the least exponent.
    int whole = (int)n, half = whole >> 1;
    return polynomial(r, C) * __int_as_float((half + 127) << 23) * __int_as_float((whole - half + 127) << 23);
}

__device__ __forceinline__ float exp_of(float x) {
    // fminf and fmaxf would lose a NaN.
    x = x < -105.0f ? -105.0f : x;
    return exp_in_range(x > 89.0f ? 89.0f : x);
}

// Phi(-a) for a >= 0, the upper tail of the standard normal distribution, and e^(-a^2/2).
__device__ __forceinline__ float normal_tail(float a, float &power) {
    constexpr float P[] = {0.5f, 0.43829268f, 0.18323257f, 0.0406321f, 0.0041160757f};
    constexpr float Q[] = {1.0f, 1.6744703f, 1.2024944f, 0.46946364f, 0.10185602f, 0.010317352f};
    a = a > 15.0f ? 15.0f : a;
    power = exp_in_range(a * -0.5f * a);
    return __fdividef(power * polynomial(a, P), polynomial(a, Q));
}

// factor sqrt(2/pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gelu_argument(float x, float factor) {
    return x * __fmaf_rn(x * x, factor * 0.7978846f * 0.044715f, factor * 0.7978846f);
}

__device__ __forceinline__ float gelu_tanh(float x) { return __fdividef(x, 1.0f + exp_of(gelu_argument(x, -2.0f))); }

__device__ __forceinline__ float gelu_exact(float x) {
    float power, tail = normal_tail(fabsf(x), power);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

__device__ __forceinline__ float gelu_tanh_gradient(float x) {
    float q = exp_of(-gelu_argument(fabsf(x), 2.0f));
    float r = __fdividef(1.0f, 1.0f + q), tail = q * r;
    // The slope is 0 beyond 16, where x^2 must not overflow.
    float near = fabsf(x) > 16.0f ? 16.0f : fabsf(x);
    float du = __fmaf_rn(near * near, 6.0f * 0.7978846f * 0.044715f, 2.0f * 0.7978846f);
    return __fmaf_rn(x * du, tail * r, x < 0.0f ? tail : 1.0f - tail);
}

__device__ __forceinline__ float gelu_exact_gradient(float x) {
    float power, tail = normal_tail(fabsf(x), power);
    return __fmaf_rn(x * 0.3989423f, power, x < 0.0f ? tail : 1.0f - tail);
}
