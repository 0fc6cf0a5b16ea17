#include "elementwise.cuh"
#include "stochastic.cuh"

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

struct StochasticBf16 : DrawsWords {
    __device__ void operator()(const float *x, float *y, uint32_t word) const {
        y[0] = __uint_as_float(stochastic_bf16(x[0], word));
    }
};

struct StochasticF16 : DrawsWords {
    __device__ void operator()(const float *x, float *y, uint32_t word) const {
        y[0] = __uint_as_float(stochastic_f16(x[0], word));
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
