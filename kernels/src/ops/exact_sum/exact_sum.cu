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

// See `sum_blocks`.
template <typename T, bool SQUARE> struct Elements {
    const T *x;

    __device__ __forceinline__ Elements(const Parameters &p, const Place &place)
        : x(p.x.row<T>(place.row) + place.column) {}

    __device__ __forceinline__ bool ready() const { return (uintptr_t)x % sizeof(Pack<T, 4>) == 0; }

    template <int N> __device__ __forceinline__ void group(int at, BlockSum &sum, uint32_t &nonfinite) const {
        Pack<T, 4> loaded[N];
#pragma unroll
        for (int k = 0; k < N; k++)
            loaded[k] = *(const Pack<T, 4> *)(x + at + k * 16);
#pragma unroll
        for (int k = 0; k < N; k++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sum.add<SQUARE>(e, to_f32(loaded[k].at[e]), nonfinite);
    }

    __device__ __forceinline__ void one(int e, BlockSum &sum, uint32_t &nonfinite) const {
        sum.add<SQUARE>(e, to_f32(*x), nonfinite);
    }
};

template <typename T, bool SQUARE> __device__ __forceinline__ void exact_sum(const Parameters &p) {
    __shared__ int64_t space[WARPS][WORDS];
    int64_t warp = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, warps = (int64_t)gridDim.x * WARPS;
    auto sum = sum_blocks<Elements<T, SQUARE>, IN_FLIGHT>(p, p.rows, p.width, warp, warps, true);
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
