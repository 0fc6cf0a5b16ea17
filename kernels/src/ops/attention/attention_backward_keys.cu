// The gradients of k and v: a block has 16 M rows of keys for each of its warps, and meets the queries of all query
// heads of its key head in tiles, in order. Where head sizes are large, a block has half of the gradients' columns.
#include "lift.cuh"

template <typename T, int D, int PARTS, int M, int WARPS, int QUERIES>
__device__ __forceinline__ void backward_keys(const BackwardParameters &p) {
    constexpr int THREADS = 32 * WARPS, KEYS = 16 * M * WARPS, N = QUERIES / 8, COLUMNS = D / PARTS;
    constexpr int STAGE = 2 * QUERIES * D;
    using Rows = Tile<T, D>;
    extern __shared__ __align__(128) char shared[];
    T *k = (T *)shared, *v = k + KEYS * D, *stages = v + KEYS * D;
    float *sums = (float *)(stages + 2 * STAGE);

    const Problem &of = p.problem;
    int column = PARTS == 1 ? 0 : blockIdx.x % PARTS * (COLUMNS / 16);
    int first = blockIdx.x / PARTS % of.blocks * KEYS;
    int n = blockIdx.x / PARTS / of.blocks / of.key_heads, h = blockIdx.x / PARTS / of.blocks % of.key_heads;
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 * M;

    Rows::load<KEYS, THREADS>(k, Rows::part(of.k.at<T>(n, h) + first * of.k.token, of.k), of.k, of.s - first, of.d);
    Rows::load<KEYS, THREADS>(v, Rows::part(of.v.at<T>(n, h) + first * of.v.token, of.v), of.v, of.s - first, of.d);
    // Queries that see any of the keys begin in tile `begin`.
    int begin = max(0, first - of.reach()) / QUERIES * QUERIES;
    auto load = [&](int head, int query, int turn) {
        T *stage = stages + turn * STAGE;
        const T *q = of.q.at<T>(n, head) + query * of.q.token, *dout = p.dout.at<T>(n, head) + query * p.dout.token;
        Rows::load<QUERIES, THREADS>(stage, Rows::part(q, of.q), of.q, of.t - query, of.d);
        Rows::load<QUERIES, THREADS>(stage + QUERIES * D, Rows::part(dout, p.dout), p.dout, of.t - query, of.d);
        int64_t at = (int64_t)n * of.query_heads + head;
        if (threadIdx.x < QUERIES / 2) {
            int i = threadIdx.x % (QUERIES / 4) * 4;
            const float *from = threadIdx.x < QUERIES / 4 ? p.log_sums(at) : p.products(at);
            copy_16_async(sums + turn * 2 * QUERIES + threadIdx.x * 4, from + query + i);
        }
        copy_commit();
    };
    int head = h * of.group, query = begin, end_head = head + of.group;
    if (begin >= of.t)
        head = end_head;
    if (head < end_head)
        load(head, query, 0);
    float scale2 = fabsf(of.scale2);
    if (of.scale2 < 0) {
        copy_wait<0>();
        __syncthreads();
        Rows::negate<KEYS, THREADS>(k);
    }

    float dk[M][COLUMNS / 8][4], dv[M][COLUMNS / 8][4];
    clear(dk);
    clear(dv);
    Lifted<T> lifted;
#pragma unroll 1
    for (int turn = 0; head < end_head; turn ^= 1) {
        copy_wait<0>();
        __syncthreads();
        int this_query = query;
        query += QUERIES;
        if (query >= of.t) {
            query = begin;
            head++;
        }
        if (head < end_head)
            load(head, query, turn ^ 1);

        T *q = stages + turn * STAGE, *dout = q + QUERIES * D;
        const float *log_sums = sums + turn * 2 * QUERIES, *dots = log_sums + QUERIES;
        float w[M][N][4], dw[M][N][4];
        products<T, D>(w, k, row, q);
        products<T, D>(dw, v, row, dout);
        bool masked = first + KEYS > min(of.s, this_query + 1 + of.reach());
        // Query i, of this lane's rows of keys.
        auto sees = [&](int m, int half, int i) {
            int key = first + row + m * 16 + half * 8 + lane / 4;
            return key <= this_query + i + of.reach() && key < of.s;
        };
#pragma unroll
        for (int i = 0; i < N; i++) {
            float2 log_sum = *(const float2 *)(log_sums + i * 8 + lane % 4 * 2);
            float2 dot = *(const float2 *)(dots + i * 8 + lane % 4 * 2);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    w[m][i][e] = exp2_fast(__fmaf_rn(w[m][i][e], scale2, e % 2 ? -log_sum.y : -log_sum.x));
                    dw[m][i][e] = w[m][i][e] * (dw[m][i][e] - (e % 2 ? dot.y : dot.x));
                }
        }
        if (masked) {
            mask(w, 0, sees);
            mask(dw, 0, sees);
            withdraw<T, D, QUERIES, THREADS>(dv, dout, column, sees);
            withdraw<T, D, QUERIES, THREADS>(dk, q, column, sees);
        }
        accumulate<T, D>(dv, w, dout, column);
        lifted.apply(dw, dk);
        accumulate<T, D>(dk, dw, q, column);
    }

    copy_wait<0>();
    __syncthreads();
    put<T, D>(k, dk, row, column, lifted.inverse(), of.scale);
    put<T, D>(v, dv, row, column, power_of_2(-LIFT<T>), 1);
    __syncthreads();
    // Only the block's own columns: `stages` ends where they end.
    int from = column * 16, d = min(of.d, from + COLUMNS);
    Rows::store<KEYS, THREADS>(k, p.dk.at<T>(n, h) + first * p.dk.token, p.dk, of.s - first, d, column * 2);
    Rows::store<KEYS, THREADS>(v, p.dv.at<T>(n, h) + first * p.dv.token, p.dv, of.s - first, d, column * 2);
}

#define KERNEL(suffix, type, d, parts, m, warps, queries)                                                              \
    extern "C" __global__ void __launch_bounds__(32 * warps, 2)                                                        \
        attention_backward_keys_##suffix##_##d(const __grid_constant__ BackwardParameters p) {                         \
        backward_keys<type, d, parts, m, warps, queries>(p);                                                           \
    }
#define KERNELS(suffix, type)                                                                                          \
    KERNEL(suffix, type, 32, 1, 2, 4, 32)                                                                              \
    KERNEL(suffix, type, 64, 1, 2, 4, 32)                                                                              \
    KERNEL(suffix, type, 96, 1, 1, 4, 64)                                                                              \
    KERNEL(suffix, type, 128, 1, 1, 4, 64)                                                                             \
    KERNEL(suffix, type, 192, 2, 1, 2, 32)                                                                             \
    KERNEL(suffix, type, 256, 2, 1, 2, 32)
KERNELS(bf16, bf16)
KERNELS(f16, f16)
