#include "elementwise.cuh"

struct Parameters {
    Tensors<2> tensors;
};

struct Same {
    __device__ void operator()(const float *x, float *y) const { y[0] = x[0]; }
};

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        write_back_##suffix(const __grid_constant__ Parameters p) {                                                    \
        elementwise<Types<float>, Types<type>>(p.tensors, Same());                                                     \
    }
KERNEL(f32, float)
KERNEL(bf16, bf16_away)
KERNEL(f16, f16)
