#include "../optimizer/blocks.cuh"

// Without momentum; `rate` is -learning_rate.
struct Sgd {
    float weight_decay, rate, padding;

    __device__ __forceinline__ void at_step(uint64_t) {}

    // The gradient with the decay.
    __device__ __forceinline__ float decayed(float g, float master) const {
        return weight_decay == 0.0f ? g : __fmaf_rn(weight_decay, master, g);
    }

    __device__ __forceinline__ float update(float g, float master, float *) const {
        return __fmaf_rn(rate, decayed(g, master), master);
    }
};

struct Momentum {
    float weight_decay, rate, padding;
    float momentum, one_minus_dampening;
    int32_t nesterov, first_step;

    __device__ __forceinline__ void at_step(uint64_t step) { first_step = step <= 1; }

    __device__ __forceinline__ float update(float g, float master, float *moment) const {
        float d = Sgd{weight_decay, rate}.decayed(g, master);
        // Selected, so that what is in a new buffer, which may be anything, does not matter.
        float buffer = first_step ? d : __fmaf_rn(momentum, moment[0], __fmul_rn(one_minus_dampening, d));
        moment[0] = buffer;
        return __fmaf_rn(rate, nesterov ? __fmaf_rn(momentum, buffer, d) : buffer, master);
    }
};

OPTIMIZER_KERNELS(sgd, 0, Sgd)
OPTIMIZER_KERNELS(sgd_momentum, 1, Momentum)
OPTIMIZER_BLOCKS_OF(sgd, 0, Sgd, f32, Float32)
OPTIMIZER_BLOCKS(sgd_momentum, 1, Momentum)
