// The gradient of q: a block has 16 M rows of queries for each of its warps, and meets the keys in tiles.
#include "lift.cuh"

template <typename T, int D, int M, int WARPS, int KEYS>
__device__ __forceinline__ void backward_queries(const BackwardParameters &p) {
    constexpr int THREADS = 32 * WARPS, QUERIES = 16 * M * WARPS, N = KEYS / 8, STAGE = 2 * KEYS * D;
    using Rows = Tile<T, D>;
    extern __shared__ __align__(128) char shared[];
    T *q = (T *)shared, *dout = q + QUERIES * D, *stages = dout + QUERIES * D;
    float *log_sums = (float *)(stages + 2 * STAGE), *dots = log_sums + QUERIES;

    const Problem &of = p.problem;
    int first = (of.blocks - 1 - (int)(blockIdx.x % of.blocks)) * QUERIES;
    unsigned head = blockIdx.x / of.blocks;
    int n = head / of.query_heads, h = head % of.query_heads;
    const T *next_k = Rows::part(of.k.at<T>(n, h / of.group), of.k);
    const T *next_v = Rows::part(of.v.at<T>(n, h / of.group), of.v);
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;
    auto position = [&](int m, int half) { return first + row + m * 16 + half * 8 + lane / 4 + of.reach(); };
    int end = min(of.s, first + QUERIES + of.reach());
    int seen = min(of.s, first + 1 + of.reach());

    const T *part_q = Rows::part(of.q.at<T>(n, h) + first * of.q.token, of.q);
    const T *part_dout = Rows::part(p.dout.at<T>(n, h) + first * p.dout.token, p.dout);
    Rows::load<QUERIES, THREADS>(q, part_q, of.q, of.t - first, of.d);
    Rows::load<QUERIES, THREADS>(dout, part_dout, p.dout, of.t - first, of.d);
    for (int i = threadIdx.x; i < QUERIES; i += THREADS) {
        log_sums[i] = p.log_sums(head)[first + i];
        dots[i] = p.products(head)[first + i];
    }
    auto load = [&](int key, T *stage) {
        Rows::load<KEYS, THREADS>(stage, next_k, of.k, of.s - key, of.d);
        Rows::load<KEYS, THREADS>(stage + KEYS * D, next_v, of.v, of.s - key, of.d);
        copy_commit();
        next_k += KEYS * of.k.token;
        next_v += KEYS * of.v.token;
    };
    load(0, stages);
    float scale2 = fabsf(of.scale2);
    if (of.scale2 < 0) {
        copy_wait<0>();
        __syncthreads();
        Rows::negate<QUERIES, THREADS>(q);
    }

    float dq[M][D / 8][4];
    clear(dq);
    Lifted<T> lifted;
#pragma unroll 1
    for (int key = 0, turn = 0; key < end; key += KEYS, turn ^= 1) {
        copy_wait<0>();
        __syncthreads();
        T *k = stages + turn * STAGE, *v = k + KEYS * D;
        if (key + KEYS < end)
            load(key + KEYS, stages + (turn ^ 1) * STAGE);

        float w[M][N][4], dw[M][N][4];
        products<T, D>(w, q, row, k);
        products<T, D>(dw, dout, row, v);
        bool masked = key + KEYS > seen;
        auto sees = [&](int m, int half, int j) { return key + j <= position(m, half) && key + j < of.s; };
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int at = row + m * 16 + half * 8 + lane / 4;
                float log_sum = log_sums[at], dot = dots[at];
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; e++)
                        dw[m][i][e] = exp2_fast(__fmaf_rn(w[m][i][e], scale2, -log_sum)) * (dw[m][i][e] - dot);
            }
        if (masked) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (!sees(m, e / 2, i * 8 + lane % 4 * 2 + e % 2))
                            dw[m][i][e] = 0;
            withdraw<T, D, KEYS, THREADS>(dq, k, 0, sees);
        }
        lifted.apply(dw, dq);
        accumulate<T, D>(dq, dw, k, 0);
    }

    copy_wait<0>();
    __syncthreads();
    put<T, D>(q, dq, row, 0, lifted.inverse(), of.scale);
    __syncthreads();
    Rows::store<QUERIES, THREADS>(q, p.dq.at<T>(n, h) + first * p.dq.token, p.dq, of.t - first, of.d);
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
