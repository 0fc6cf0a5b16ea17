#include "../optimizer/blocks.cuh"

// 1 - beta^step in f64 by squaring, then rounded: `bias_correction` of mod.rs.
__device__ __forceinline__ float bias_correction(float beta, uint64_t step) {
    double power = 1.0, square = beta;
    for (uint64_t rest = step == 0 ? 1 : step; rest > 0; rest >>= 1) {
        if (rest & 1)
            power = __dmul_rn(power, square);
        square = __dmul_rn(square, square);
    }
    return __double2float_rn(__dsub_rn(1.0, power));
}

// `Constants` of mod.rs, and the learning rate.
struct AdamW {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, inverse_root, epsilon, rate, decay, learning_rate;

    // One thread for each correction: f64 is slow on some devices. All threads of the block call it.
    __device__ __forceinline__ void at_step(uint64_t step) {
        __shared__ float corrected[2];
        if (threadIdx.x == 0)
            corrected[0] = __double2float_rn(__ddiv_rn(learning_rate, bias_correction(beta1, step)));
        if (threadIdx.x == 32)
            corrected[1] = __double2float_rn(__ddiv_rn(1.0, __dsqrt_rn(bias_correction(beta2, step))));
        __syncthreads();
        rate = corrected[0];
        inverse_root = corrected[1];
    }

    __device__ __forceinline__ float update(float g, float master, float *moment) const {
        float m = __fmaf_rn(beta1, moment[0], __fmul_rn(one_minus_beta1, g));
        float v = __fmaf_rn(beta2, moment[1], __fmul_rn(one_minus_beta2, __fmul_rn(g, g)));
        float u = __fdiv_rn(m, __fmaf_rn(__fsqrt_rn(v), inverse_root, epsilon));
        moment[0] = m;
        moment[1] = v;
        return __fsub_rn(master, __fmaf_rn(decay, master, __fmul_rn(rate, u)));
    }
};

OPTIMIZER_KERNELS(adamw, 2, AdamW)
OPTIMIZER_BLOCKS(adamw, 2, AdamW)
