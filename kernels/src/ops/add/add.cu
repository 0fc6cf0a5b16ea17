#include "elementwise.cuh"

struct Parameters {
    Tensors<3> tensors;
};

struct Sum {
    __device__ void operator()(const float *x, float *y) const { y[0] = x[0] + x[1]; }
};

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        add_##suffix(const __grid_constant__ Parameters p) {                                                           \
        elementwise<Types<type, type>, Types<type>>(p.tensors, Sum());                                                 \
    }
FOR_EACH_DTYPE(KERNEL)
