#include "../step_control/control.cuh"
#include "exact_sum.cuh"

constexpr int THREADS = 128, WARPS = THREADS / 32;

struct Range {
    int64_t parameter, start, numel;
};

struct Parameters {
    const void *gradient;
    int64_t numel;
    const Range *ranges;
    int64_t parameters;
    Control *control;
    unsigned long long *ranks;
    uint32_t micro;
};

// See `sum_blocks`: squares of the gradient of one parameter.
template <typename T> struct Squares {
    const T *x;

    __device__ __forceinline__ Squares(const T *gradient, const Place &place) : x(gradient + place.column) {}

    __device__ __forceinline__ bool ready() const { return true; }

    template <int N> __device__ __forceinline__ void group(int at, BlockSum &sum, uint32_t &nonfinite) const {
#pragma unroll
        for (int k = 0; k < N; k++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sum.add<true>(e, to_f32(x[at + k * 16 + e]), nonfinite);
    }

    __device__ __forceinline__ void one(int e, BlockSum &sum, uint32_t &nonfinite) const {
        sum.add<true>(e, to_f32(*x), nonfinite);
    }
};

// The rank of each parameter, one block for each.
template <typename T> __device__ __forceinline__ void ranks(const Parameters &p) {
    __shared__ int64_t space[WARPS][WORDS];
    if (!p.control->search)
        return;
    for (int64_t i = blockIdx.x; i < p.parameters; i += gridDim.x) {
        Range range = p.ranges[i];
        bool inside = range.start >= 0 && range.start <= p.numel && range.numel <= p.numel - range.start;
        int64_t numel = inside ? range.numel : 0;
        auto sum =
            sum_blocks<Squares<T>, 4>((const T *)p.gradient + range.start, 1, numel, threadIdx.x / 32, WARPS, true);
        int64_t word = block_word(sum, space);
        __syncthreads();
        if (threadIdx.x < WORDS)
            space[0][threadIdx.x] = word;
        __syncthreads();
        if (threadIdx.x < 32) {
            bool finite = space[0][LIMBS] == 0;
            sum.load(space[0]);
            double squares = sum.rounded(space[1]);
            if (threadIdx.x == 0)
                p.ranks[i] = finite ? (unsigned long long)__double_as_longlong(squares) : ~0ull;
        }
        __syncthreads();
    }
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        first_overflow_ranks_##suffix(const __grid_constant__ Parameters p) {                                          \
        ranks<type>(p);                                                                                                \
    }
KERNEL(f32, float)
KERNEL(bf16, bf16)

struct Met {
    unsigned long long rank, mark;

    __device__ __forceinline__ void meet(unsigned long long other, unsigned long long its) {
        if (other > rank || (other == rank && its > mark))
            rank = other, mark = its;
    }
};

// The largest rank, and of equal ones the earliest parameter: one warp.
extern "C" __global__ void first_overflow_choose(const __grid_constant__ Parameters p) {
    if (!p.control->search)
        return;
    Met met = {p.control->largest, p.control->overflow};
    for (int64_t i = threadIdx.x; i < p.parameters; i += 32)
        met.meet(p.ranks[i], ~((unsigned long long)p.micro << 32 | (uint32_t)p.ranges[i].parameter));
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
        unsigned long long rank = __shfl_xor_sync(ALL_LANES, met.rank, apart);
        unsigned long long mark = __shfl_xor_sync(ALL_LANES, met.mark, apart);
        met.meet(rank, mark);
    }
    if (threadIdx.x == 0)
        p.control->largest = met.rank, p.control->overflow = met.mark;
}
