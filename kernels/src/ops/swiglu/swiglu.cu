#include "elementwise.cuh"

struct ForwardParameters {
    Tensors<3> tensors; // gate, up, y
};

struct BackwardParameters {
    Tensors<5> tensors; // gate, up, dy, dgate, dup
};

struct Forward {
    __device__ void operator()(const float *x, float *y) const {
        float gate = x[0], up = x[1];
        y[0] = gate / (1.0f + expf(-gate)) * up;
    }
};

struct Backward {
    __device__ void operator()(const float *x, float *y) const {
        float gate = x[0], up = x[1], dy = x[2];
        float sigma = 1.0f / (1.0f + expf(-gate));
        float slope = sigma * __fmaf_rn(gate, 1.0f - sigma, 1.0f);
        y[0] = dy * up * slope;
        y[1] = dy * (gate * sigma);
    }
};

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        swiglu_forward_##suffix(const __grid_constant__ ForwardParameters p) {                                         \
        elementwise<Types<type, type>, Types<type>>(p.tensors, Forward());                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        swiglu_backward_##suffix(const __grid_constant__ BackwardParameters p) {                                       \
        elementwise<Types<type, type, type>, Types<type, type>>(p.tensors, Backward());                                \
    }
FOR_EACH_DTYPE(KERNEL)
