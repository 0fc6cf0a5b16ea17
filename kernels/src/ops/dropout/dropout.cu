#include "elementwise.cuh"

struct Parameters {
    Tensors<2> tensors;
    Philox stream;
    uint32_t threshold;
    float factor;
};

struct Drop : DrawsWords {
    uint32_t threshold;
    float factor;
    __device__ Drop(const Parameters &p) : threshold(p.threshold), factor(p.factor) {}
    __device__ void operator()(const float *x, float *y, uint32_t word) const {
        y[0] = word < threshold ? 0.0f : x[0] * factor;
    }
};

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        dropout_##suffix(const __grid_constant__ Parameters p) {                                                       \
        elementwise_random<Types<type>, Types<type>>(p.tensors, p.stream, Drop(p));                                    \
    }
FOR_EACH_DTYPE(KERNEL)
