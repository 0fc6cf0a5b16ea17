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

// See `sum_blocks`.
template <typename T, typename Y, bool OVERWRITE> struct Elements {
    const T *x;
    Y *y;

    __device__ __forceinline__ Elements(const Parameters &p, const Place &place)
        : x(p.x.row<T>(place.row) + place.column), y(p.y.row<Y>(place.row) + place.column) {}

    __device__ __forceinline__ bool ready() const {
        return (uintptr_t)x % sizeof(Pack<T, 4>) == 0 && (uintptr_t)y % sizeof(Pack<Y, 4>) == 0;
    }

    template <int N> __device__ __forceinline__ void group(int at, BlockSum &sum, uint32_t &nonfinite) const {
        Pack<T, 4> added[N];
        Pack<Y, 4> to[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            added[k] = *(const Pack<T, 4> *)(x + at + k * 16);
            if (!OVERWRITE)
                to[k] = *(const Pack<Y, 4> *)(y + at + k * 16);
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            Pack<Y, 4> total;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float a = to_f32(added[k].at[e]);
                sum.add<true>(e, a, nonfinite);
                total.at[e] = from_f32<Y>(OVERWRITE ? a : to_f32(to[k].at[e]) + a);
            }
            store_pack(y + at + k * 16, total);
        }
    }

    __device__ __forceinline__ void one(int e, BlockSum &sum, uint32_t &nonfinite) const {
        float a = to_f32(*x);
        sum.add<true>(e, a, nonfinite);
        *y = from_f32<Y>(OVERWRITE ? a : to_f32(*y) + a);
    }
};

// One pass, in the order of the sum of squares whether it is asked for or not. A step of a warp covers whole sectors of
// both tensors.
template <typename T, typename Y, bool OVERWRITE> __device__ __forceinline__ void accumulate(const Parameters &p) {
    __shared__ int64_t space[WARPS][WORDS];
    int64_t warp = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, warps = (int64_t)gridDim.x * WARPS;
    auto sum =
        sum_blocks<Elements<T, Y, OVERWRITE>, IN_FLIGHT>(p, p.rows, p.width, warp, warps, p.square_sum != nullptr);
    int64_t word = block_word(sum, space);
    if (threadIdx.x == LIMBS && word != 0) {
        atomicAdd((unsigned long long *)p.nonfinite, (unsigned long long)word);
        if (p.overflow)
            atomicMax(p.overflow, p.overflow_mark);
    }
    if (p.square_sum)
        add_block_words(p.square_sum, word, space);
}

#define KERNEL(suffix, type, to_suffix, to_type)                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 6)                                                           \
        accumulate_add_##to_suffix##_##suffix(const __grid_constant__ Parameters p) {                                  \
        accumulate<type, to_type, false>(p);                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 6)                                                           \
        accumulate_overwrite_##to_suffix##_##suffix(const __grid_constant__ Parameters p) {                            \
        accumulate<type, to_type, true>(p);                                                                            \
    }
#define KERNELS(suffix, type) KERNEL(suffix, type, f32, float) KERNEL(suffix, type, bf16, bf16)
FOR_EACH_DTYPE(KERNELS)
