// The row kernels of layer norm and of RMS norm, which is layer norm without mean and bias.
//
// A row belongs to a group of threads of one block, a power of two of them: a few for a narrow row, the whole block for
// a wide one. The group reads the row once, in packs of N elements, and keeps it in registers: PACKS of each thread.
// With PACKS = 0 the row is wider than that, and is read again for each pass over it. Unless all is ALIGNED, and the
// rows are whole packs, the elements of a pack are read one by one; in which order they are summed is the same.
#pragma once
#include "dtype.cuh"
#include "reduce.cuh"
#include "view.cuh"

constexpr int MOST_WARPS = 16, MOST_THREADS = 32 * MOST_WARPS;

// N elements of a row of `width`, from N at on; 0 beyond its end.
template <typename T, int N, bool ALIGNED>
__device__ __forceinline__ Pack<T, N> load_pack(const T *row, int64_t at, int64_t width) {
    Pack<T, N> pack;
    if constexpr (ALIGNED) {
        pack = ((const Pack<T, N> *)row)[at];
    } else {
#pragma unroll
        for (int e = 0; e < N; e++)
            pack.at[e] = at * N + e < width ? row[at * N + e] : from_f32<T>(0.0f);
    }
    return pack;
}
template <bool ALIGNED, typename T, int N>
__device__ __forceinline__ void store_pack_at(T *row, int64_t at, int64_t width, const Pack<T, N> &pack) {
    if constexpr (ALIGNED) {
        store_pack(row + at * N, pack);
    } else {
#pragma unroll
        for (int e = 0; e < N; e++)
            if (at * N + e < width)
                row[at * N + e] = pack.at[e];
    }
}

// A weight or bias, of the rows' dtype or of f32; null: none.
struct Vector {
    const char *data;
    int64_t is_f32;

    template <typename T, bool ALIGNED, int N>
    __device__ __forceinline__ void load(float (&to)[N], int64_t at, int64_t width, float absent) const {
        if (data == nullptr) {
#pragma unroll
            for (int e = 0; e < N; e++)
                to[e] = absent;
        } else if (is_f32) {
            constexpr int PIECE = PER_ACCESS<float>;
#pragma unroll
            for (int i = 0; i < N; i += PIECE) {
                Pack<float, PIECE> piece =
                    load_pack<float, PIECE, ALIGNED>((const float *)data, at * (N / PIECE) + i / PIECE, width);
#pragma unroll
                for (int e = 0; e < PIECE; e++)
                    to[i + e] = piece.at[e];
            }
        } else {
            Pack<T, N> raw = load_pack<T, N, ALIGNED>((const T *)data, at, width);
#pragma unroll
            for (int e = 0; e < N; e++)
                to[e] = to_f32(raw.at[e]);
        }
    }
};

// The threads that share a row.
struct Group {
    int size, lane;   // of the group
    int index, count; // of the groups of the block
    float *space;     // 4 MOST_WARPS floats of shared memory
    int turn;

    __device__ __forceinline__ Group(int size, float *space)
        : size(size), lane(threadIdx.x % size), index(threadIdx.x / size), count(blockDim.x / size), space(space),
          turn(0) {}

    // Sums of VALUES (1 or 2) values over the group, in all its threads, in a fixed order. All threads of the block
    // call it.
    template <int VALUES> __device__ __forceinline__ void sum(float (&x)[VALUES]) {
#pragma unroll
        for (int apart = 16; apart > 0; apart /= 2)
            if (apart < size) {
#pragma unroll
                for (int v = 0; v < VALUES; v++)
                    x[v] += __shfl_xor_sync(ALL_LANES, x[v], apart);
            }
        if (size <= 32)
            return;
        // Two places in turn: who writes one again has passed the barrier of the other, after all have read.
        float *mine = space + turn * 2 * MOST_WARPS;
        turn ^= 1;
        if (threadIdx.x % 32 == 0) {
#pragma unroll
            for (int v = 0; v < VALUES; v++)
                mine[v * MOST_WARPS + threadIdx.x / 32] = x[v];
        }
        __syncthreads();
        int first = index * (size / 32);
#pragma unroll
        for (int v = 0; v < VALUES; v++) {
            x[v] = mine[v * MOST_WARPS + first];
            for (int warp = 1; warp < size / 32; warp++)
                x[v] += mine[v * MOST_WARPS + first + warp];
        }
    }
};

// One row as its group has it.
template <typename T, int N, int PACKS, bool ALIGNED> struct Row {
    Pack<T, N> pack[PACKS];

    // Without `packs` it reads nothing.
    __device__ __forceinline__ void load(const T *row, const Group &group, int64_t packs, int64_t width) {
#pragma unroll
        for (int k = 0; k < PACKS; k++)
            if (group.lane + k * group.size < packs)
                pack[k] = load_pack<T, N, ALIGNED>(row, group.lane + k * group.size, width);
    }
    __device__ __forceinline__ const Pack<T, N> &get(int k, int64_t) const { return pack[k]; }
};
template <typename T, int N, bool ALIGNED> struct Row<T, N, 0, ALIGNED> {
    const T *row;
    int64_t width;

    __device__ __forceinline__ void load(const T *from, const Group &, int64_t, int64_t of) { row = from, width = of; }
    __device__ __forceinline__ Pack<T, N> get(int, int64_t at) const {
        return load_pack<T, N, ALIGNED>(row, at, width);
    }
};

// Calls f(k, at) for each pack of the thread: the k-th of its own is pack `at` of the row.
template <int PACKS, typename F>
__device__ __forceinline__ void for_each_pack(const Group &group, int64_t packs, const F &f) {
    if constexpr (PACKS > 0) {
#pragma unroll
        for (int k = 0; k < PACKS; k++)
            if (group.lane + k * group.size < packs)
                f(k, (int64_t)(group.lane + k * group.size));
    } else {
        for (int64_t at = group.lane; at < packs; at += group.size)
            f(0, at);
    }
}

struct ForwardParameters {
    View x, y;
    View mean, rstd; // null: not asked for
    Vector weight, bias;
    int64_t rows, width;
    float epsilon;
    int32_t group; // threads of a row
};

template <typename T, bool CENTERED, int PACKS, bool ALIGNED>
__device__ __forceinline__ void norm_forward(const ForwardParameters &p) {
    constexpr int N = PER_ACCESS<T>;
    __shared__ float space[4 * MOST_WARPS];
    Group group(p.group, space);
    float width = (float)(p.width > 0 ? p.width : 1);
    for (int64_t first = (int64_t)blockIdx.x * group.count; first < p.rows; first += (int64_t)gridDim.x * group.count) {
        // A group beyond the last row goes along, with a row of nothing.
        int64_t row = first + group.index;
        int64_t packs = row < p.rows ? (p.width + N - 1) / N : 0;
        Row<T, N, PACKS, ALIGNED> x;
        x.load(packs > 0 ? p.x.row<T>(row) : nullptr, group, packs, p.width);
        float mean = 0.0f;
        if (CENTERED) {
            float sum[1] = {};
            for_each_pack<PACKS>(group, packs, [&](int k, int64_t at) {
                Pack<T, N> pack = x.get(k, at);
#pragma unroll
                for (int e = 0; e < N; e++)
                    sum[0] += to_f32(pack.at[e]);
            });
            group.sum(sum);
            mean = sum[0] / width;
        }
        float squares[1] = {};
        for_each_pack<PACKS>(group, packs, [&](int k, int64_t at) {
            Pack<T, N> pack = x.get(k, at);
#pragma unroll
            for (int e = 0; e < N; e++) {
                float d = CENTERED ? to_f32(pack.at[e]) - mean : to_f32(pack.at[e]);
                if (ALIGNED || at * N + e < p.width)
                    squares[0] = __fmaf_rn(d, d, squares[0]);
            }
        });
        group.sum(squares);
        float rstd = 1.0f / sqrtf(squares[0] / width + p.epsilon);
        if (row < p.rows && group.lane == 0) {
            if (p.mean)
                *p.mean.row<float>(row) = mean;
            if (p.rstd)
                *p.rstd.row<float>(row) = rstd;
        }
        T *y = packs > 0 ? p.y.row<T>(row) : nullptr;
        for_each_pack<PACKS>(group, packs, [&](int k, int64_t at) {
            float weight[N], bias[N];
            p.weight.load<T, ALIGNED>(weight, at, p.width, 1.0f);
            if (CENTERED)
                p.bias.load<T, ALIGNED>(bias, at, p.width, 0.0f);
            Pack<T, N> in = x.get(k, at), out;
#pragma unroll
            for (int e = 0; e < N; e++) {
                float v = to_f32(in.at[e]);
                v = CENTERED ? __fmaf_rn((v - mean) * rstd, weight[e], bias[e]) : v * rstd * weight[e];
                out.at[e] = from_f32<T>(v);
            }
            store_pack_at<ALIGNED>(y, at, p.width, out);
        });
    }
}

struct BackwardParameters {
    View dy, x, dx;
    View mean; // null when not centered
    View rstd;
    Vector weight;
    float *sums; // for each chunk of rows dweight `[width]`, then, when centered, dbias; null: not asked for
    int64_t rows, width;
    int64_t chunk; // rows of one block
    int64_t group;
};

// Four of a thread's partial sums; neighbouring threads have neighbouring places.
__device__ __forceinline__ float4 *partial_sums(int slot) {
    extern __shared__ float4 partial[];
    return partial + slot * blockDim.x + threadIdx.x;
}

// A block has a chunk of rows. The parameters' gradients over the chunk are summed in shared memory, where each thread
// has places for the columns of its packs, or, with PACKS = 0, where they are to end.
template <typename T, bool CENTERED, int PACKS, bool ALIGNED>
__device__ __forceinline__ void norm_backward(const BackwardParameters &p) {
    constexpr int N = PER_ACCESS<T>, QUADS = N / 4,
                  HALF = PACKS * QUADS; // slots of a pack, and of all that make dweight
    __shared__ float space[4 * MOST_WARPS];
    Group group((int)p.group, space);
    int64_t first = (int64_t)blockIdx.x * p.chunk;
    int64_t last = first + p.chunk < p.rows ? first + p.chunk : p.rows;
    float scale = 1.0f / (float)(p.width > 0 ? p.width : 1);
    float *sums = p.sums + (int64_t)blockIdx.x * p.width * (CENTERED ? 2 : 1);
    if (PACKS > 0 && p.sums != nullptr) {
#pragma unroll
        for (int slot = 0; slot < HALF * (CENTERED ? 2 : 1); slot++)
            *partial_sums(slot) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    for (int64_t base = first; base < last; base += group.count) {
        int64_t row = base + group.index;
        int64_t packs = row < last ? (p.width + N - 1) / N : 0;
        Row<T, N, PACKS, ALIGNED> x, dy;
        x.load(packs > 0 ? p.x.row<T>(row) : nullptr, group, packs, p.width);
        dy.load(packs > 0 ? p.dy.row<T>(row) : nullptr, group, packs, p.width);
        float mean = CENTERED && packs > 0 ? *p.mean.row<float>(row) : 0.0f;
        float rstd = packs > 0 ? *p.rstd.row<float>(row) : 0.0f;
        auto xhat_of = [&](T x) { return (CENTERED ? to_f32(x) - mean : to_f32(x)) * rstd; };
        float sum[2] = {}; // of g xhat and of g
        for_each_pack<PACKS>(group, packs, [&](int k, int64_t at) {
            float weight[N], xhat[N], d[N];
            p.weight.load<T, ALIGNED>(weight, at, p.width, 1.0f);
            Pack<T, N> x_pack = x.get(k, at), dy_pack = dy.get(k, at);
#pragma unroll
            for (int e = 0; e < N; e++) {
                d[e] = to_f32(dy_pack.at[e]);
                xhat[e] = xhat_of(x_pack.at[e]);
                float g = d[e] * weight[e];
                sum[0] = __fmaf_rn(g, xhat[e], sum[0]);
                if (CENTERED)
                    sum[1] += g;
            }
            if (p.sums == nullptr)
                return;
            if constexpr (PACKS > 0) {
#pragma unroll
                for (int q = 0; q < QUADS; q++) {
                    float4 *w = partial_sums(k * QUADS + q), w_sum = *w;
                    w_sum.x = __fmaf_rn(d[4 * q], xhat[4 * q], w_sum.x);
                    w_sum.y = __fmaf_rn(d[4 * q + 1], xhat[4 * q + 1], w_sum.y);
                    w_sum.z = __fmaf_rn(d[4 * q + 2], xhat[4 * q + 2], w_sum.z);
                    w_sum.w = __fmaf_rn(d[4 * q + 3], xhat[4 * q + 3], w_sum.w);
                    *w = w_sum;
                    if (CENTERED) {
                        float4 *b = partial_sums(HALF + k * QUADS + q), b_sum = *b;
                        b_sum.x += d[4 * q], b_sum.y += d[4 * q + 1];
                        b_sum.z += d[4 * q + 2], b_sum.w += d[4 * q + 3];
                        *b = b_sum;
                    }
                }
            } else {
                // The group is the whole block, so a column is one thread's.
#pragma unroll
                for (int e = 0; e < N; e++) {
                    if (!ALIGNED && at * N + e >= p.width)
                        break;
                    float *w = sums + at * N + e, *b = w + p.width;
                    *w = __fmaf_rn(d[e], xhat[e], row == first ? 0.0f : *w);
                    if (CENTERED)
                        *b = d[e] + (row == first ? 0.0f : *b);
                }
            }
        });
        if constexpr (CENTERED) {
            group.sum(sum);
        } else {
            float one[1] = {sum[0]};
            group.sum(one);
            sum[0] = one[0];
        }
        float mean_gx = sum[0] * scale, mean_g = sum[1] * scale;
        T *dx = packs > 0 ? p.dx.row<T>(row) : nullptr;
        for_each_pack<PACKS>(group, packs, [&](int k, int64_t at) {
            float weight[N];
            p.weight.load<T, ALIGNED>(weight, at, p.width, 1.0f);
            Pack<T, N> x_pack = x.get(k, at), dy_pack = dy.get(k, at), out;
#pragma unroll
            for (int e = 0; e < N; e++) {
                float g = to_f32(dy_pack.at[e]) * weight[e];
                if (CENTERED)
                    g -= mean_g;
                out.at[e] = from_f32<T>(__fmaf_rn(-xhat_of(x_pack.at[e]), mean_gx, g) * rstd);
            }
            store_pack_at<ALIGNED>(dx, at, p.width, out);
        });
    }
    if constexpr (PACKS > 0) {
        if (p.sums == nullptr)
            return;
        __syncthreads();
        // The block's sums: those of its groups, the first group first.
        extern __shared__ float4 partial[];
        int slots = HALF * (CENTERED ? 2 : 1) * group.size;
        for (int i = threadIdx.x; i < slots; i += blockDim.x) {
            int slot = i / group.size, lane = i % group.size, k = slot % HALF / QUADS;
            int64_t column = ((int64_t)k * group.size + lane) * N + slot % QUADS * 4;
            if (column >= p.width)
                continue;
            const float4 *from = partial + slot * blockDim.x + lane;
            float4 sum = from[0];
            for (int g = 1; g < group.count; g++) {
                float4 more = from[g * group.size];
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }
            Pack<float, 4> out = {sum.x, sum.y, sum.z, sum.w};
            store_pack_at<ALIGNED>(sums + slot / HALF * p.width, column / 4, p.width, out);
        }
    }
}

struct FinishParameters {
    const float *sums; // of the first chunk
    int64_t stride;    // from chunk to chunk
    int64_t chunks;
    char *gradient;
    int64_t width;
    int64_t accumulate;
};

constexpr int FINISH_COLUMNS = 32, FINISH_LANES = 16;

// gradient (+)= the sums of all chunks. Lane i of a column adds chunks i, i + FINISH_LANES, ..., then the lanes are
// added.
template <typename T> __device__ __forceinline__ void norm_finish(const FinishParameters &p) {
    __shared__ float space[FINISH_LANES][FINISH_COLUMNS];
    int x = threadIdx.x % FINISH_COLUMNS, lane = threadIdx.x / FINISH_COLUMNS;
    int64_t column = (int64_t)blockIdx.x * FINISH_COLUMNS + x;
    float sum = 0.0f;
    if (column < p.width) {
#pragma unroll 8
        for (int64_t chunk = lane; chunk < p.chunks; chunk += FINISH_LANES)
            sum += p.sums[chunk * p.stride + column];
    }
    space[lane][x] = sum;
    __syncthreads();
    if (lane != 0 || column >= p.width)
        return;
    for (int other = 1; other < FINISH_LANES; other++)
        sum += space[other][x];
    T *gradient = (T *)p.gradient + column;
    *gradient = from_f32<T>(p.accumulate ? to_f32(*gradient) + sum : sum);
}

// The kernels of one norm for one dtype: a row is short enough for one pack of each thread, or for four, or is read
// again and again; and everything is aligned, or not.
#define NORM_KERNELS(norm, centered, suffix, type)                                                                     \
    NORM_KERNEL_PAIR(norm, centered, suffix, type, short, 1, true)                                                     \
    NORM_KERNEL_PAIR(norm, centered, suffix, type, long, 4, true)                                                      \
    NORM_KERNEL_PAIR(norm, centered, suffix, type, loop, 0, true)                                                      \
    NORM_KERNEL_PAIR(norm, centered, suffix, type, short_unaligned, 1, false)                                          \
    NORM_KERNEL_PAIR(norm, centered, suffix, type, long_unaligned, 4, false)                                           \
    NORM_KERNEL_PAIR(norm, centered, suffix, type, loop_unaligned, 0, false)

#define NORM_KERNEL_PAIR(norm, centered, suffix, type, path, packs, aligned)                                           \
    extern "C" __global__ __launch_bounds__(MOST_THREADS, 1) void norm##_forward_##path##_##suffix(                    \
        const __grid_constant__ ForwardParameters p) {                                                                 \
        norm_forward<type, centered, packs, aligned>(p);                                                               \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(MOST_THREADS, 1) void norm##_backward_##path##_##suffix(                   \
        const __grid_constant__ BackwardParameters p) {                                                                \
        norm_backward<type, centered, packs, aligned>(p);                                                              \
    }
