// Attention of f32 without tensor cores, which round it. A block of 16 x 16 threads has 64 rows, and meets the other
// side in tiles of 64; thread (y, x) has rows y + 16 i and columns x + 16 j of every matrix.
#include "attention.cuh"

constexpr int TILE = 64, THREADS = 256, CHUNK = 32, STRIDE = TILE + 1;

struct Space {
    float factors[TILE * STRIDE]; // two tiles of CHUNK columns, transposed, or one of TILE columns
    float weights[TILE * STRIDE];
};

// Up to 64 rows of a head.
struct Rows {
    const float *data;
    int64_t token;
    int count, d;
    __device__ __forceinline__ Rows(const Heads &heads, int64_t n, int64_t h, int first, int all, int d)
        : data(heads.at<float>(n, h) + first * heads.token), token(heads.token), count(all - first), d(d) {}
    __device__ __forceinline__ float at(int row, int c) const {
        return row < count && c < d ? data[row * token + c] : 0;
    }
};

__device__ __forceinline__ int thread_x() { return threadIdx.x % 16; }
__device__ __forceinline__ int thread_y() { return threadIdx.x / 16; }

// c = a b^T.
__device__ __forceinline__ void products(float (&c)[4][4], const Rows &a, const Rows &b, Space &space) {
    float *left = space.factors, *right = left + CHUNK * STRIDE;
#pragma unroll
    for (int i = 0; i < 16; i++)
        c[i / 4][i % 4] = 0;
    for (int first = 0; first < a.d; first += CHUNK) {
        __syncthreads();
        for (int at = threadIdx.x; at < TILE * CHUNK; at += THREADS) {
            int row = at / CHUNK, column = at % CHUNK;
            left[column * STRIDE + row] = a.at(row, first + column);
            right[column * STRIDE + row] = b.at(row, first + column);
        }
        __syncthreads();
#pragma unroll 4
        for (int column = 0; column < CHUNK; column++) {
            float x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = left[column * STRIDE + thread_y() + 16 * i];
                y[i] = right[column * STRIDE + thread_x() + 16 * i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    c[i][j] = __fmaf_rn(x[i], y[j], c[i][j]);
        }
    }
}

// c += w b, where row i of this thread sees row j of b: nothing else is multiplied, for 0 times NaN is NaN.
template <int D, typename Sees>
__device__ __forceinline__ void accumulate(float (&c)[4][D / 16], const float (&w)[4][4], const Rows &b, Space &space,
                                           bool masked, Sees sees) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            space.weights[(thread_y() + 16 * i) * STRIDE + thread_x() + 16 * j] = w[i][j];
#pragma unroll
    for (int part = 0; part < D / TILE; part++) {
        __syncthreads();
        for (int at = threadIdx.x; at < TILE * TILE; at += THREADS)
            space.factors[at / TILE * STRIDE + at % TILE] = b.at(at / TILE, part * TILE + at % TILE);
        __syncthreads();
#pragma unroll 2
        for (int row = 0; row < TILE; row++) {
            float y[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                y[j] = space.factors[row * STRIDE + thread_x() + 16 * j];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (masked && !sees(i, row))
                    continue;
                float x = space.weights[(thread_y() + 16 * i) * STRIDE + row];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    c[i][part * 4 + j] = __fmaf_rn(x, y[j], c[i][part * 4 + j]);
            }
        }
    }
}

template <int N> __device__ __forceinline__ void clear(float (&c)[4][N]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            c[i][j] = 0;
}

// The block's rows, from row `first` of `all`.
template <int N>
__device__ __forceinline__ void store(const float (&c)[4][N], const Heads &heads, int64_t n, int64_t h, int first,
                                      int all, int d, float factor) {
    float *to = heads.at<float>(n, h);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = first + thread_y() + 16 * i;
#pragma unroll
        for (int j = 0; j < N; j++) {
            int column = thread_x() + 16 * j;
            if (row < all && column < d)
                to[row * heads.token + column] = c[i][j] * factor;
        }
    }
}

template <int D> __device__ __forceinline__ void forward(const ForwardParameters &p) {
    __shared__ Space space;
    const Problem &of = p.problem;
    QueryRows<TILE> rows(of);
    int first = rows.first, n = rows.n, h = rows.h;
    Rows q(of.q, n, h, first, of.t, of.d);
    float out[4][D / 16], most[4], total[4];
    clear(out);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        most[i] = -INFINITE;
        total[i] = 0;
    }
    for (int key = 0; key < rows.end; key += TILE) {
        bool masked = key + TILE > rows.seen;
        auto sees = [&](int i, int j) { return rows.sees(of, thread_y() + 16 * i, key + j); };
        float w[4][4];
        products(w, q, Rows(of.k, n, h / of.group, key, of.s, of.d), space);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float max = most[i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                w[i][j] = sees(i, thread_x() + 16 * j) ? w[i][j] * of.scale2 : -INFINITE;
                max = fmaxf(max, w[i][j]);
            }
#pragma unroll
            for (int apart = 8; apart > 0; apart /= 2)
                max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, apart));
            float base = max == -INFINITE ? 0 : max, decay = exp2_fast(most[i] - base), sum = 0;
            most[i] = max;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                w[i][j] = exp2_fast(w[i][j] - base);
                sum += w[i][j];
            }
            total[i] = __fmaf_rn(total[i], decay, sum);
#pragma unroll
            for (int j = 0; j < D / 16; j++)
                out[i][j] *= decay;
        }
        accumulate<D>(out, w, Rows(of.v, n, h / of.group, key, of.s, of.d), space, masked, sees);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float sum = total[i];
#pragma unroll
        for (int apart = 8; apart > 0; apart /= 2)
            sum += __shfl_xor_sync(ALL_LANES, sum, apart);
        int query = first + thread_y() + 16 * i;
        if (p.log_sum_exp.data != nullptr && thread_x() == 0 && query < of.t)
            p.log_sum_exp.at(n, h)[query] = (most[i] + log2f(sum)) * LOG_2;
        float inverse = sum == 0 ? 0 : 1 / sum;
#pragma unroll
        for (int j = 0; j < D / 16; j++)
            out[i][j] *= inverse;
    }
    store(out, p.out, n, h, first, of.t, of.d, 1);
}

template <int D> __device__ __forceinline__ void backward_queries(const BackwardParameters &p) {
    __shared__ Space space;
    const Problem &of = p.problem;
    QueryRows<TILE> rows(of);
    int first = rows.first, n = rows.n, h = rows.h;
    Rows q(of.q, n, h, first, of.t, of.d), dout(p.dout, n, h, first, of.t, of.d);
    float dq[4][D / 16];
    clear(dq);
    for (int key = 0; key < rows.end; key += TILE) {
        auto sees = [&](int i, int j) { return rows.sees(of, thread_y() + 16 * i, key + j); };
        Rows k(of.k, n, h / of.group, key, of.s, of.d), v(of.v, n, h / of.group, key, of.s, of.d);
        float w[4][4], dw[4][4];
        products(w, q, k, space);
        products(dw, dout, v, space);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int query = first + thread_y() + 16 * i;
            float log_sum = p.log_sums(rows.head)[query], product = p.products(rows.head)[query];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float weight = exp2_fast(__fmaf_rn(w[i][j], of.scale2, -log_sum));
                dw[i][j] = sees(i, thread_x() + 16 * j) ? weight * (dw[i][j] - product) : 0;
            }
        }
        accumulate<D>(dq, dw, k, space, key + TILE > rows.seen, sees);
    }
    store(dq, p.dq, n, h, first, of.t, of.d, of.scale);
}

template <int D> __device__ __forceinline__ void backward_keys(const BackwardParameters &p) {
    __shared__ Space space;
    const Problem &of = p.problem;
    int first = blockIdx.x % of.blocks * TILE;
    int n = blockIdx.x / of.blocks / of.key_heads, h = blockIdx.x / of.blocks % of.key_heads;
    Rows k(of.k, n, h, first, of.s, of.d), v(of.v, n, h, first, of.s, of.d);
    int begin = max(0, first - of.reach()) / TILE * TILE;
    float dk[4][D / 16], dv[4][D / 16];
    clear(dk);
    clear(dv);
    for (int head = h * of.group; head < (h + 1) * of.group; head++)
        for (int query = begin; query < of.t; query += TILE) {
            Rows q(of.q, n, head, query, of.t, of.d), dout(p.dout, n, head, query, of.t, of.d);
            bool masked = first + TILE > min(of.s, query + 1 + of.reach());
            auto sees = [&](int i, int j) {
                int key = first + thread_y() + 16 * i;
                return key <= query + j + of.reach() && key < of.s;
            };
            float w[4][4], dw[4][4];
            products(w, k, q, space);
            products(dw, v, dout, space);
            int64_t row = (int64_t)n * of.query_heads + head;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int column = thread_x() + 16 * j;
                float log_sum = p.log_sums(row)[query + column], product = p.products(row)[query + column];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bool seen = sees(i, column);
                    w[i][j] = seen ? exp2_fast(__fmaf_rn(w[i][j], of.scale2, -log_sum)) : 0;
                    dw[i][j] = seen ? w[i][j] * (dw[i][j] - product) : 0;
                }
            }
            accumulate<D>(dv, w, dout, space, masked, sees);
            accumulate<D>(dk, dw, q, space, masked, sees);
        }
    store(dk, p.dk, n, h, first, of.s, of.d, of.scale);
    store(dv, p.dv, n, h, first, of.s, of.d, 1);
}

#define KERNEL(name, Parameters, d)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_##name##_f32_##d(const __grid_constant__ Parameters p) {                                             \
        name<d>(p);                                                                                                    \
    }
#define KERNELS(d)                                                                                                     \
    KERNEL(forward, ForwardParameters, d)                                                                              \
    KERNEL(backward_queries, BackwardParameters, d)                                                                    \
    KERNEL(backward_keys, BackwardParameters, d)
KERNELS(64) KERNELS(128) KERNELS(256)
