#include "elementwise.cuh"
#include "gelu.cuh"

struct ForwardParameters {
    Tensors<2> tensors;
};

struct BackwardParameters {
    Tensors<3> tensors;
};

template <GeluKind KIND> struct Forward {
    __device__ void operator()(const float *x, float *y) const { y[0] = gelu<KIND>(x[0]); }
};

template <GeluKind KIND> struct Backward {
    __device__ void operator()(const float *x, float *y) const { y[0] = gelu_gradient<KIND>(x[0]) * x[1]; }
};

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        gelu_forward_exact_##suffix(const __grid_constant__ ForwardParameters p) {                                     \
        elementwise<Types<type>, Types<type>>(p.tensors, Forward<GeluKind::EXACT>());                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        gelu_forward_tanh_##suffix(const __grid_constant__ ForwardParameters p) {                                      \
        elementwise<Types<type>, Types<type>>(p.tensors, Forward<GeluKind::TANH>());                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        gelu_backward_exact_##suffix(const __grid_constant__ BackwardParameters p) {                                   \
        elementwise<Types<type, type>, Types<type>>(p.tensors, Backward<GeluKind::EXACT>());                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                  \
        gelu_backward_tanh_##suffix(const __grid_constant__ BackwardParameters p) {                                    \
        elementwise<Types<type, type>, Types<type>>(p.tensors, Backward<GeluKind::TANH>());                            \
    }
FOR_EACH_DTYPE(KERNEL)
