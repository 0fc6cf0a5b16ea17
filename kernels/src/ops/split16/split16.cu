#include "compact.cuh"

constexpr int THREADS = 256; // as in cuda.rs

struct Parameters {
    float *f32s;
    uint16_t *weight;
    int16_t *remainder;
    int64_t numel;
};

extern "C" __global__ void __launch_bounds__(THREADS) split16(const __grid_constant__ Parameters p) {
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < p.numel; i += (int64_t)gridDim.x * THREADS) {
        float x = p.f32s[i];
        p.weight[i] = __bfloat16_as_ushort(bf16_nearest_away(x));
        p.remainder[i] = (int16_t)__float_as_uint(x);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) join16(const __grid_constant__ Parameters p) {
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < p.numel; i += (int64_t)gridDim.x * THREADS)
        p.f32s[i] = joined(p.weight[i], p.remainder[i]);
}
