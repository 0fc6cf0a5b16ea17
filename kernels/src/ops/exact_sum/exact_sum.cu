#include "exact_sum.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32, IN_FLIGHT = 8;

struct Parameters {
    View x;
    int64_t rows, width;
    int64_t *accumulator;
};

struct CarryParameters {
    int64_t *accumulator;
};

template <typename T, bool SQUARE> __device__ __forceinline__ void exact_sum(const Parameters &p) {
    __shared__ int64_t space[WARPS][WORDS];
    WarpAccumulator sum;
    uint32_t nonfinite = 0;
    int64_t numel = p.rows * p.width, warps = (int64_t)gridDim.x * WARPS;
    int lane = threadIdx.x % 32;
    int64_t group = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    for (; group * WARP_BLOCKS * SUM_BLOCK < numel; group += warps) {
        BlockSum block;
        int64_t start = (group * WARP_BLOCKS + lane / BLOCK_LANES) * SUM_BLOCK;
        Place place(start, p.rows, p.width);
        const T *from = p.x.row<T>(place.row) + place.column;
        if (place.column + SUM_BLOCK <= p.width && start < numel && (uintptr_t)from % sizeof(Pack<T, 4>) == 0) {
            from += lane % BLOCK_LANES * 4;
#pragma unroll 1
            for (int step = 0; step < BLOCK_STEPS; step += IN_FLIGHT) {
                Pack<T, 4> x[IN_FLIGHT];
#pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++)
                    x[k] = *(const Pack<T, 4> *)(from + (step + k) * 16);
#pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        block.add<SQUARE>(e, to_f32(x[k].at[e]), nonfinite);
            }
        } else {
            int64_t first = start + lane % BLOCK_LANES * 4;
#pragma unroll 1
            for (int64_t at = first; at < first + SUM_BLOCK && at < numel; at += 16) {
                Place place(at, p.rows, p.width);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (at + e < numel)
                        block.add<SQUARE>(e, to_f32(p.x.row<T>(place.row)[place.column]), nonfinite);
                    place.next(p.width);
                }
            }
        }
        sum.add<BLOCK_LANES>(block.total());
    }
    sum.add_nonfinite(nonfinite);
    add_block_words(p.accumulator, block_word(sum, space), space);
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 8)                                                           \
        exact_sum_##suffix(const __grid_constant__ Parameters p) {                                                     \
        exact_sum<type, false>(p);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 8)                                                           \
        exact_sum_squares_##suffix(const __grid_constant__ Parameters p) {                                             \
        exact_sum<type, true>(p);                                                                                      \
    }
FOR_EACH_DTYPE(KERNEL)

extern "C" __global__ void exact_sum_carry(const __grid_constant__ CarryParameters p) {
    WarpAccumulator sum;
    sum.load(p.accumulator);
    sum.carry();
    sum.store(p.accumulator);
}
