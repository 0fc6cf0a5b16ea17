#include "elementwise.cuh"

struct Parameters {
    Tensors<2> tensors;
};

struct StochasticParameters {
    Tensors<2> tensors;
    Philox stream;
};

struct Same {
    __device__ void operator()(const float *x, float *y) const { y[0] = x[0]; }
};

// Integer addition below the kept mantissa, then truncation.
struct StochasticBf16 : DrawsWords {
    __device__ void operator()(const float *x, float *y, uint32_t word) const {
        uint32_t bits = __float_as_uint(x[0]);
        bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        y[0] = __uint_as_float(nan ? bits >> 16 | 0x40 : (bits + (word >> 16)) >> 16);
    }
};

struct StochasticF16 : DrawsWords {
    __device__ void operator()(const float *x, float *y, uint32_t word) const {
        constexpr uint32_t DROPPED = (1u << 13) - 1, NORMAL = (127u - 14) << 23;
        uint32_t bits = __float_as_uint(x[0]), magnitude = bits & 0x7fffffffu, rounded;
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
        float value = __uint_as_float(rounded | (bits & 0x80000000u));
        y[0] = __uint_as_float(__half_as_ushort(from_f32<f16>(value)));
    }
};

#define KERNEL(from, from_type, to, to_type)                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        cast_##from##_##to(const __grid_constant__ Parameters p) {                                                     \
        elementwise<Types<from_type>, Types<to_type>>(p.tensors, Same());                                              \
    }
// 16 bits are copied as they are, for a copy keeps which NaN a NaN is.
KERNEL(f32, float, f32, float)
KERNEL(f32, float, bf16, bf16)
KERNEL(f32, float, f16, f16)
KERNEL(bf16, bf16, f32, float)
KERNEL(bf16, bits16, bf16, bits16)
KERNEL(bf16, bf16, f16, f16)
KERNEL(f16, f16, f32, float)
KERNEL(f16, f16, bf16, bf16)
KERNEL(f16, bits16, f16, bits16)

#define STOCHASTIC(from, from_type, to, rounding)                                                                      \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        cast_stochastic_##from##_##to(const __grid_constant__ StochasticParameters p) {                                \
        elementwise_random<Types<from_type>, Types<bits16>>(p.tensors, p.stream, rounding());                          \
    }
STOCHASTIC(f32, float, bf16, StochasticBf16)
STOCHASTIC(f32, float, f16, StochasticF16)
STOCHASTIC(bf16, bf16, f16, StochasticF16)
STOCHASTIC(f16, f16, bf16, StochasticBf16)
