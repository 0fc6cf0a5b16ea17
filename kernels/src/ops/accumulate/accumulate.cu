#include "exact_sum.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32, IN_FLIGHT = 4;

struct Parameters {
    View x, y;
    int64_t rows, width;
    int64_t *nonfinite;
    int64_t *square_sum;          // null: no sum
    unsigned long long *overflow; // null: no record
    unsigned long long overflow_mark;
};

// One pass: blocks of 256 elements in the lanes and the order of the sum of squares, whether it is asked for or not. A
// step of a warp covers whole sectors of both tensors.
template <typename T, bool OVERWRITE> __device__ __forceinline__ void accumulate(const Parameters &p) {
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
        const T *x = p.x.row<T>(place.row) + place.column;
        float *y = p.y.row<float>(place.row) + place.column;
        if (place.column + SUM_BLOCK <= p.width && start < numel && (uintptr_t)x % sizeof(Pack<T, 4>) == 0 &&
            (uintptr_t)y % sizeof(Pack<float, 4>) == 0) {
            x += lane % BLOCK_LANES * 4;
            y += lane % BLOCK_LANES * 4;
#pragma unroll 1
            for (int step = 0; step < BLOCK_STEPS; step += IN_FLIGHT) {
                Pack<T, 4> added[IN_FLIGHT];
                Pack<float, 4> to[IN_FLIGHT];
#pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++) {
                    added[k] = *(const Pack<T, 4> *)(x + (step + k) * 16);
                    if (!OVERWRITE)
                        to[k] = *(const Pack<float, 4> *)(y + (step + k) * 16);
                }
#pragma unroll
                for (int k = 0; k < IN_FLIGHT; k++) {
                    Pack<float, 4> sum;
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float a = to_f32(added[k].at[e]);
                        block.add<true>(e, a, nonfinite);
                        sum.at[e] = OVERWRITE ? a : to[k].at[e] + a;
                    }
                    store_pack(y + (step + k) * 16, sum);
                }
            }
        } else {
            int64_t first = start + lane % BLOCK_LANES * 4;
#pragma unroll 1
            for (int64_t at = first; at < first + SUM_BLOCK && at < numel; at += 16) {
                Place place(at, p.rows, p.width);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (at + e < numel) {
                        float a = to_f32(p.x.row<T>(place.row)[place.column]);
                        float *to = p.y.row<float>(place.row) + place.column;
                        block.add<true>(e, a, nonfinite);
                        *to = OVERWRITE ? a : *to + a;
                    }
                    place.next(p.width);
                }
            }
        }
        if (p.square_sum)
            sum.add<BLOCK_LANES>(block.total());
    }
    sum.add_nonfinite(nonfinite);
    int64_t word = block_word(sum, space);
    if (threadIdx.x == LIMBS && word != 0) {
        atomicAdd((unsigned long long *)p.nonfinite, (unsigned long long)word);
        if (p.overflow)
            atomicMax(p.overflow, p.overflow_mark);
    }
    if (p.square_sum)
        add_block_words(p.square_sum, word, space);
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 6)                                                           \
        accumulate_add_##suffix(const __grid_constant__ Parameters p) {                                                \
        accumulate<type, false>(p);                                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 6)                                                           \
        accumulate_overwrite_##suffix(const __grid_constant__ Parameters p) {                                          \
        accumulate<type, true>(p);                                                                                     \
    }
FOR_EACH_DTYPE(KERNEL)
