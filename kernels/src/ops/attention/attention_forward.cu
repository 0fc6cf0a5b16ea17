// Attention with a running maximum.
#include "queries.cuh"

template <typename T, int D, int M, int KEYS> __device__ __forceinline__ void forward(const ForwardParameters &p) {
    constexpr int N = KEYS / 8;
    extern __shared__ __align__(128) char shared[];
    using Block = Queries<T, D, M, 4, KEYS>;
    T *q = (T *)shared;
    const Problem &of = p.problem;
    Block block(of, q + Block::ROWS * D);
    block.load(q, of.q);
    block.load_keys(0, 0);
    float scale2 = block.positive_scale(q);

    float out[M][D / 8][4], most[M][2], total[M][2];
    clear(out);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[m][half] = -INFINITE;
            total[m][half] = 0;
        }

    block.each_tile([&](const T *k, T *v, bool masked, auto sees) {
        float w[M][N][4];
        products<T, D>(w, q, block.row, k);
        if (masked)
            mask(w, -INFINITE, sees);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float max = most[m][half];
#pragma unroll
                for (int i = 0; i < N; i++)
                    max = fmaxf(max, fmaxf(w[m][i][half * 2], w[m][i][half * 2 + 1]));
                max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 1));
                max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 2));
                // A row that has seen nothing but -infinity subtracts nothing.
                float base = max == -INFINITE ? 0 : max * scale2;
                float decay = exp2_fast(__fmaf_rn(most[m][half], scale2, -base));
                most[m][half] = max;
                base -= LIFT<T>;
                float sum = 0;
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; e++) {
                        w[m][i][e] = exp2_fast(__fmaf_rn(w[m][i][e], scale2, -base));
                        sum += w[m][i][e];
                    }
                total[m][half] = __fmaf_rn(total[m][half], decay, sum);
                if (__any_sync(ALL_LANES, decay != 1)) {
#pragma unroll
                    for (int i = 0; i < D / 8; i++) {
                        out[m][i][half * 2] *= decay;
                        out[m][i][half * 2 + 1] *= decay;
                    }
                }
            }
        if (masked)
            withdraw<T, D, KEYS, Block::THREADS>(out, v, 0, sees);
        accumulate<T, D>(out, w, v, 0);
    });

    float *log_sum_exp = p.log_sum_exp.data == nullptr ? nullptr : p.log_sum_exp.at(block.n, block.h);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            int query = block.first + block.lane_row(m, half);
            if (log_sum_exp != nullptr && threadIdx.x % 4 == 0 && query < of.t)
                log_sum_exp[query] = (__fmaf_rn(most[m][half], scale2, -(float)LIFT<T>) + log2f(sum)) * LOG_2;
            float inverse = sum == 0 ? 0 : 1 / sum;
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                out[m][i][half * 2] *= inverse;
                out[m][i][half * 2 + 1] *= inverse;
            }
        }
    block.store(q, out, p.out, 1, 1);
}

#define KERNEL(suffix, type, d, m, keys, blocks)                                                                       \
    extern "C" __global__ void __launch_bounds__(128, blocks)                                                          \
        attention_forward_##suffix##_##d(const __grid_constant__ ForwardParameters p) {                                \
        forward<type, d, m, keys>(p);                                                                                  \
    }
#define KERNELS(suffix, type)                                                                                          \
    KERNEL(suffix, type, 32, 2, 64, 2)                                                                                 \
    KERNEL(suffix, type, 64, 2, 64, 2)                                                                                 \
    KERNEL(suffix, type, 96, 2, 48, 2)                                                                                 \
    KERNEL(suffix, type, 128, 2, 48, 2)                                                                                \
    KERNEL(suffix, type, 192, 1, 32, 2)                                                                                \
    KERNEL(suffix, type, 256, 1, 32, 2)
KERNELS(bf16, bf16)
KERNELS(f16, f16)
