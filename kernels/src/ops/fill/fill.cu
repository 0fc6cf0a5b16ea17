#include "dtype.cuh"
#include "view.cuh"

struct Parameters {
    View y;
    int64_t rows, width;
    float value;
};

template <typename T> __device__ void fill(const Parameters &p) {
    T value = from_f32<T>(p.value);
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < p.rows * p.width; i += stride)
        p.y.row<T>(i / p.width)[i % p.width] = value;
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void fill_##suffix(const __grid_constant__ Parameters p) { fill<type>(p); }
FOR_EACH_DTYPE(KERNEL)
