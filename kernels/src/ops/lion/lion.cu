#include "../optimizer/blocks.cuh"

// `Constants` of mod.rs.
struct Lion {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, learning_rate, decay, padding;

    __device__ __forceinline__ void at_step(uint64_t) {}

    __device__ __forceinline__ float update(float g, float master, float *moment) const {
        float c = __fmaf_rn(beta1, moment[0], __fmul_rn(one_minus_beta1, g));
        moment[0] = __fmaf_rn(beta2, moment[0], __fmul_rn(one_minus_beta2, g));
        // Neither comparison holds for 0 and NaN, which then stand for their own sign.
        float sign = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : c;
        return __fsub_rn(master, __fmaf_rn(decay, master, __fmul_rn(learning_rate, sign)));
    }
};

OPTIMIZER_KERNELS(lion, 1, Lion)
OPTIMIZER_BLOCKS(lion, 1, Lion)
