#include "elementwise.cuh"

struct UniformParameters {
    Tensors<1> tensors;
    Philox stream;
    float low, range, limit;
};

struct NormalParameters {
    Tensors<1> tensors;
    Philox stream;
    float mean, deviation;
};

struct Uniform : DrawsWords {
    float low, range, limit;
    __device__ Uniform(const UniformParameters &p) : low(p.low), range(p.range), limit(p.limit) {}
    __device__ void operator()(const float *, float *y, uint32_t word) const {
        float x = __fmaf_rn((float)(int)(word >> 8) * (1.0f / 16777216.0f), range, low);
        y[0] = x < limit ? x : limit;
    }
};

// The operations of math.rs in their order, for the same bits.

// The natural logarithm of a normal positive x.
__device__ __forceinline__ float log_same_bits(float x) {
    constexpr int SQRT_HALF = 0x3f3504f3, ONE = 0x3f800000;
    int bits = __float_as_int(x) + (ONE - SQRT_HALF);
    float e = (float)((int)((unsigned)bits >> 23) - 127);
    float f = __int_as_float((bits & 0x007fffff) + SQRT_HALF) - 1.0f;
    float f2 = f * f;
    float p = -0.0763381f;
    p = __fmaf_rn(p, f, 0.12761278f);
    p = __fmaf_rn(p, f, -0.131603f);
    p = __fmaf_rn(p, f, 0.14201806f);
    p = __fmaf_rn(p, f, -0.1662335f);
    p = __fmaf_rn(p, f, 0.20001225f);
    p = __fmaf_rn(p, f, -0.2500082f);
    p = __fmaf_rn(p, f, 0.33333333f);
    float tail = f * f2 * p;
    tail = __fmaf_rn(e, -2.1219444e-4f, tail);
    tail = __fmaf_rn(f2, -0.5f, tail);
    return __fmaf_rn(e, 0.6933594f, f + tail);
}

// The sine and the cosine of 2 pi t / 2^32.
__device__ __forceinline__ void sin_cos_turn(uint32_t t, float &sine, float &cosine) {
    uint32_t quarter = (t + (1u << 29)) >> 30;
    float x = (float)(int)(t - (quarter << 30)) * (float)(6.283185307179586 / 4294967296.0);
    float x2 = x * x;
    float p = __fmaf_rn(__fmaf_rn(-1.9515296e-4f, x2, 0.008332161f), x2, -0.16666655f);
    float sin = __fmaf_rn(x * x2, p, x);
    p = __fmaf_rn(__fmaf_rn(2.4433157e-5f, x2, -0.0013887316f), x2, 0.041666646f);
    float cos = __fmaf_rn(x2 * x2, p, __fmaf_rn(x2, -0.5f, 1.0f));
    // Quarter turns: (sin, cos), (cos, -sin), (-sin, -cos), (-cos, sin).
    bool odd = quarter & 1;
    sine = __uint_as_float(__float_as_uint(odd ? cos : sin) ^ (quarter & 2) << 30);
    cosine = __uint_as_float(__float_as_uint(odd ? sin : cos) ^ (quarter + 1 & 2) << 30);
}

struct Normal {
    float mean, deviation;

    // Two independent standard normal numbers from two words.
    __device__ static void box_muller(uint32_t &a, uint32_t &b) {
        float u = __fmaf_rn((float)(int)(a >> 1), 4.6566128730773926e-10f, 2.3283064365386963e-10f);
        float r = __fsqrt_rn(-2.0f * log_same_bits(u)), sine, cosine;
        sin_cos_turn(b, sine, cosine);
        a = __float_as_uint(r * cosine), b = __float_as_uint(r * sine);
    }
    __device__ void draw(uint32_t (&block)[4]) const {
        box_muller(block[0], block[1]);
        box_muller(block[2], block[3]);
    }
    __device__ void operator()(const float *, float *y, uint32_t number) const {
        y[0] = __fmaf_rn(__uint_as_float(number), deviation, mean);
    }
};

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        random_uniform_##suffix(const __grid_constant__ UniformParameters p) {                                         \
        elementwise_random<Types<>, Types<type>>(p.tensors, p.stream, Uniform(p));                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        random_normal_##suffix(const __grid_constant__ NormalParameters p) {                                           \
        elementwise_random<Types<>, Types<type>>(p.tensors, p.stream, Normal{p.mean, p.deviation});                    \
    }
FOR_EACH_DTYPE(KERNEL)
