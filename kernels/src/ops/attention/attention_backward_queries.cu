// The gradient of q.
#include "lift.cuh"
#include "queries.cuh"

template <typename T, int D, int M, int WARPS, int KEYS>
__device__ __forceinline__ void backward_queries(const BackwardParameters &p) {
    constexpr int N = KEYS / 8;
    extern __shared__ __align__(128) char shared[];
    using Block = Queries<T, D, M, WARPS, KEYS>;
    T *q = (T *)shared, *dout = q + Block::ROWS * D, *stages = dout + Block::ROWS * D;
    float *log_sums = (float *)(stages + 2 * Block::STAGE), *dots = log_sums + Block::ROWS;
    const Problem &of = p.problem;
    Block block(of, stages);
    block.load(q, of.q);
    block.load(dout, p.dout);
    for (int i = threadIdx.x; i < Block::ROWS; i += Block::THREADS) {
        log_sums[i] = p.log_sums(block.head)[block.first + i];
        dots[i] = p.products(block.head)[block.first + i];
    }
    block.load_keys(0, 0);
    float scale2 = block.positive_scale(q);

    float dq[M][D / 8][4];
    clear(dq);
    Lifted<T> lifted;
    block.each_tile([&](T *k, const T *v, bool masked, auto sees) {
        float w[M][N][4], dw[M][N][4];
        products<T, D, 2>(w, q, block.row, k);
        products<T, D, 2>(dw, dout, block.row, v);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int at = block.lane_row(m, half);
                float log_sum = log_sums[at], dot = dots[at];
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; e++)
                        dw[m][i][e] = exp2_fast(__fmaf_rn(w[m][i][e], scale2, -log_sum)) * (dw[m][i][e] - dot);
            }
        if (masked) {
            mask(dw, 0, sees);
            withdraw<T, D, KEYS, Block::THREADS>(dq, k, 0, sees);
        }
        lifted.apply(dw, dq);
        accumulate<T, D>(dq, dw, k, 0);
    });
    block.store(q, dq, p.dq, lifted.inverse(), of.scale);
}

#define KERNEL(suffix, type, d, m, warps, keys)                                                                        \
    extern "C" __global__ void __launch_bounds__(32 * warps, 2)                                                        \
        attention_backward_queries_##suffix##_##d(const __grid_constant__ BackwardParameters p) {                      \
        backward_queries<type, d, m, warps, keys>(p);                                                                  \
    }
#define KERNELS(suffix, type)                                                                                          \
    KERNEL(suffix, type, 32, 2, 4, 32)                                                                                 \
    KERNEL(suffix, type, 64, 2, 4, 32)                                                                                 \
    KERNEL(suffix, type, 96, 2, 4, 32)                                                                                 \
    KERNEL(suffix, type, 128, 2, 4, 32)                                                                                \
    KERNEL(suffix, type, 192, 1, 2, 32)                                                                                \
    KERNEL(suffix, type, 256, 1, 2, 32)
KERNELS(bf16, bf16)
KERNELS(f16, f16)
