// What the forward pass and the gradient of q share: a block has 16 M rows of queries for each of its warps, and meets
// the keys in tiles. While it computes with a tile, the next one arrives.
#pragma once
#include "attention.cuh"

template <typename T, int D, int M, int WARPS, int KEYS> struct Queries : QueryRows<16 * M * WARPS> {
    static constexpr int THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
    using Base = QueryRows<ROWS>;
    using Base::first, Base::n, Base::h, Base::end, Base::seen;
    static constexpr int STAGE = 2 * KEYS * D; // elements of a tile of keys and one of values; there are two stages
    using Rows = Tile<T, D>;

    const Problem &of;
    T *stages;
    int row; // the warp's first, in the block
    const T *next_k, *next_v;

    __device__ __forceinline__ Queries(const Problem &of, T *stages)
        : Base(of), of(of), stages(stages), row(threadIdx.x / 32 * 16 * M),
          next_k(Rows::part(of.k.at<T>(n, h / of.group), of.k)), next_v(Rows::part(of.v.at<T>(n, h / of.group), of.v)) {
    }

    // Row of the block that is this lane's row `half` of fragments m.
    __device__ __forceinline__ int lane_row(int m, int half) const {
        return row + m * 16 + half * 8 + threadIdx.x % 32 / 4;
    }

    // Starts to load the block's rows.
    __device__ __forceinline__ void load(T *tile, const Heads &from) const {
        Rows::template load<ROWS, THREADS>(tile, Rows::part(from.at<T>(n, h) + first * from.token, from), from,
                                           of.t - first, of.d);
    }

    // Starts to load the next tile, whose first key is `key`.
    __device__ __forceinline__ void load_keys(int key, int turn) {
        T *stage = stages + turn * STAGE;
        Rows::template load<KEYS, THREADS>(stage, next_k, of.k, of.s - key, of.d);
        Rows::template load<KEYS, THREADS>(stage + KEYS * D, next_v, of.v, of.s - key, of.d);
        copy_commit();
        next_k += KEYS * of.k.token;
        next_v += KEYS * of.v.token;
    }

    // The factor of scores, positive: the queries take a negative sign.
    __device__ __forceinline__ float positive_scale(T *q) const {
        if (of.scale2 < 0) {
            copy_wait<0>();
            __syncthreads();
            Rows::template negate<ROWS, THREADS>(q);
        }
        return fabsf(of.scale2);
    }

    // Calls compute(k, v, masked, sees) for each tile; `sees(m, half, j)` is whether a row sees the tile's key j, and
    // where not `masked` it does.
    template <typename Compute> __device__ __forceinline__ void each_tile(Compute compute) {
#pragma unroll 1
        for (int key = 0, turn = 0; key < end; key += KEYS, turn ^= 1) {
            copy_wait<0>();
            __syncthreads();
            T *k = stages + turn * STAGE;
            if (key + KEYS < end)
                load_keys(key + KEYS, turn ^ 1);
            auto sees = [&](int m, int half, int j) { return this->sees(of, lane_row(m, half), key + j); };
            compute(k, k + KEYS * D, key + KEYS > seen, sees);
        }
    }

    // Stores results, times two factors, by way of the queries' tile: each warp's replace the queries that it alone has
    // used. Without keys, these are still arriving.
    __device__ __forceinline__ void store(T *q, const float (&result)[M][D / 8][4], const Heads &to, float f, float g) {
        copy_wait<0>();
        __syncthreads();
        put<T, D>(q, result, row, 0, f, g);
        __syncthreads();
        Rows::template store<ROWS, THREADS>(q, to.at<T>(n, h) + first * to.token, to, of.t - first, of.d);
    }
};
