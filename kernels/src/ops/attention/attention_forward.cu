// A block has 16 M rows of queries for each of its warps, and meets the keys in tiles, with a running maximum. While it
// computes with a tile, the next one arrives.
#include "attention.cuh"

template <typename T, int D, int M, int KEYS> __device__ __forceinline__ void forward(const ForwardParameters &p) {
    constexpr int WARPS = 4, THREADS = 32 * WARPS, QUERIES = 16 * M * WARPS, N = KEYS / 8;
    constexpr int STAGE = 2 * KEYS * D;
    using Rows = Tile<T, D>;
    extern __shared__ __align__(128) char shared[];
    T *q = (T *)shared, *stages = q + QUERIES * D;

    const Problem &of = p.problem;
    // The last queries of a head have most to do when causal, so they go first.
    int first = (of.blocks - 1 - (int)(blockIdx.x % of.blocks)) * QUERIES;
    int n = blockIdx.x / of.blocks / of.query_heads, h = blockIdx.x / of.blocks % of.query_heads;
    const T *next_k = Rows::part(of.k.at<T>(n, h / of.group), of.k);
    const T *next_v = Rows::part(of.v.at<T>(n, h / of.group), of.v);
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;
    // Rows of this lane: `position(m, half)` sees keys up to itself.
    auto position = [&](int m, int half) { return first + row + m * 16 + half * 8 + lane / 4 + of.reach(); };
    int end = min(of.s, first + QUERIES + of.reach());
    int seen = min(of.s, first + 1 + of.reach()); // keys that all rows see

    const T *queries = Rows::part(of.q.at<T>(n, h) + first * of.q.token, of.q);
    Rows::load<QUERIES, THREADS>(q, queries, of.q, of.t - first, of.d);
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

    float out[M][D / 8][4], most[M][2], total[M][2];
    clear(out);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[m][half] = -INFINITE;
            total[m][half] = 0;
        }

#pragma unroll 1
    for (int key = 0, turn = 0; key < end; key += KEYS, turn ^= 1) {
        copy_wait<0>();
        __syncthreads();
        T *k = stages + turn * STAGE, *v = k + KEYS * D;
        if (key + KEYS < end)
            load(key + KEYS, stages + (turn ^ 1) * STAGE);

        float w[M][N][4];
        products<T, D>(w, q, row, k);
        bool masked = key + KEYS > seen;
        auto sees = [&](int m, int half, int j) { return key + j <= position(m, half) && key + j < of.s; };
        if (masked) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        if (!sees(m, e / 2, i * 8 + lane % 4 * 2 + e % 2))
                            w[m][i][e] = -INFINITE;
        }
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
            withdraw<T, D, KEYS, THREADS>(out, v, 0, sees);
        accumulate<T, D>(out, w, v, 0);
    }

    float *log_sum_exp = p.log_sum_exp.data == nullptr ? nullptr : p.log_sum_exp.at(n, h);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            int query = first + row + m * 16 + half * 8 + lane / 4;
            if (log_sum_exp != nullptr && lane % 4 == 0 && query < of.t)
                log_sum_exp[query] =
                    (__fmaf_rn(most[m][half], scale2, -(float)LIFT<T>) + log2f(sum)) * LOG_2;
            float inverse = sum == 0 ? 0 : 1 / sum;
#pragma unroll
            for (int i = 0; i < D / 8; i++) {
                out[m][i][half * 2] *= inverse;
                out[m][i][half * 2 + 1] *= inverse;
            }
        }
    // Each warp's results replace the queries that it alone has used; without keys, they are still arriving.
    copy_wait<0>();
    __syncthreads();
    put<T, D>(q, out, row, 0, 1, 1);
    __syncthreads();
    Rows::store<QUERIES, THREADS>(q, p.out.at<T>(n, h) + first * p.out.token, p.out, of.t - first, of.d);
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
