// Order-independent sums, the words of exact_sum.rs: blocks of 256 elements summed in f64 in a fixed order, and the
// blocks' sums added to a fixed-point accumulator of 67 limbs without rounding.
//
// Overflow: a value changes a limb by less than 2^32, so a limb of 64 bits holds 2^31 - 1 values and carried
// accumulators. A call adds one value for 256 elements, and carries what it leaves: it may have 2^38 elements, a
// terabyte of f32, with room to spare.
#pragma once
#include "dtype.cuh"
#include "reduce.cuh"
#include "view.cuh"

constexpr int LIMBS = 67, WORDS = LIMBS + 1, SUM_BLOCK = 256;

// A block's lanes: four neighbouring ones, lane q of them taking its elements 16 k + 4 q + {0, 1, 2, 3} for k = 0,
// ..., 15.
constexpr int BLOCK_LANES = 4, BLOCK_STEPS = 16, WARP_BLOCKS = 32 / BLOCK_LANES;

// Where an element of a tensor of rows is.
struct Place {
    int64_t row, column;

    __device__ __forceinline__ Place(int64_t index, int64_t rows, int64_t width)
        : row(rows == 1 ? 0 : index / width), column(index - row * width) {}

    __device__ __forceinline__ void next(int64_t width) {
        if (++column == width)
            row++, column = 0;
    }
};

// The sixteen partial sums of a block, four in each of its lanes.
struct BlockSum {
    double partial[4] = {};

    // Adds the value or the square of element e of a step; an element that is not finite is left out and counted.
    template <bool SQUARE> __device__ __forceinline__ void add(int e, float x, uint32_t &nonfinite) {
        bool finite = fabsf(x) <= 3.40282347e38f;
        nonfinite += !finite;
        double wide = finite ? x : 0.0f;
        // The square is exact, so one rounding or two are the same.
        partial[e] = SQUARE ? __fma_rn(wide, wide, partial[e]) : partial[e] + wide;
    }

    // The block's sum, in all its lanes. All lanes of the warp call it.
    __device__ __forceinline__ double total() const {
        double sum[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[e] = partial[e] + __shfl_xor_sync(ALL_LANES, partial[e], 2);
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[e] += __shfl_xor_sync(ALL_LANES, sum[e], 1);
        return (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
};

// An accumulator in the registers of a warp: lane i has the words i, 32 + i and 64 + i. Beyond the last: 0.
struct WarpAccumulator {
    int64_t word[3] = {};

    // Adds x exactly. SAME neighbouring lanes have the same x, which counts once. All lanes of the warp call it.
    template <int SAME> __device__ __forceinline__ void add(double x) {
        int lane = threadIdx.x % 32;
        uint64_t bits = (uint64_t)__double_as_longlong(x);
        uint32_t exponent = (uint32_t)(bits >> 52) & 0x7ff;
        uint64_t mantissa = (bits & ((1ull << 52) - 1)) | (uint64_t)(exponent != 0) << 52;
        uint32_t shift = exponent - (exponent != 0);
        int limb = shift / 32;
        uint64_t low = mantissa << shift % 32;
        int64_t sign = (int64_t)bits >> 63;
        // Below 2^64: 53 bits, shifted by up to 31, end below bit 84.
        int64_t piece[3] = {(int64_t)(uint32_t)low, (int64_t)(low >> 32),
                            (int64_t)(mantissa >> 32 >> (32 - shift % 32))};
#pragma unroll
        for (int k = 0; k < 3; k++)
            piece[k] = (piece[k] ^ sign) - sign;
        // Values of one limb are summed over the warp before they enter; most blocks of a tensor share one limb.
        uint32_t left = __ballot_sync(ALL_LANES, mantissa != 0);
        while (left != 0) {
            int at = __shfl_sync(ALL_LANES, limb, __ffs(left) - 1);
            bool now = (left >> lane & 1) != 0 && limb == at;
            left &= ~__ballot_sync(ALL_LANES, now);
#pragma unroll
            for (int k = 0; k < 3; k++) {
                int64_t sum = now ? piece[k] : 0;
#pragma unroll
                for (int apart = 16; apart >= SAME; apart /= 2)
                    sum += __shfl_xor_sync(ALL_LANES, sum, apart);
#pragma unroll
                for (int w = 0; w < 3; w++)
                    word[w] += at + k == 32 * w + lane ? sum : 0;
            }
        }
    }

    // Adds each lane's count of values that are not finite.
    __device__ __forceinline__ void add_nonfinite(uint32_t count) {
        int64_t sum = warp_sum((int64_t)count);
        word[LIMBS / 32] += threadIdx.x % 32 == LIMBS % 32 ? sum : 0;
    }

    // Makes the words a function of the value: every limb but the last in [0, 2^32). That form is the only one of its
    // kind, so the order of the carries does not matter: here all limbs at once, until none is left.
    __device__ __forceinline__ void carry() {
        int lane = threadIdx.x % 32;
        bool more;
        do {
            int64_t carried[3];
            more = false;
#pragma unroll
            for (int w = 0; w < 3; w++) {
                bool carries = 32 * w + lane < LIMBS - 1;
                carried[w] = carries ? word[w] >> 32 : 0;
                word[w] = carries ? word[w] & 0xffffffff : word[w];
                more = more || carried[w] != 0;
            }
#pragma unroll
            for (int w = 0; w < 3; w++) {
                int64_t below = __shfl_up_sync(ALL_LANES, carried[w], 1);
                int64_t last = w == 0 ? 0 : __shfl_sync(ALL_LANES, carried[w == 0 ? 0 : w - 1], 31);
                word[w] += lane == 0 ? last : below;
            }
        } while (__any_sync(ALL_LANES, more));
    }

    // The value, rounded once to nearest even: `Accumulator::sum`, in all lanes. Changes the words. All lanes of the
    // warp call it, with shared memory of their own.
    __device__ __forceinline__ double rounded(int64_t (&space)[WORDS]) {
        int lane = threadIdx.x % 32;
        carry();
        bool negative = __shfl_sync(ALL_LANES, word[(LIMBS - 1) / 32], (LIMBS - 1) % 32) < 0;
        if (negative) {
#pragma unroll
            for (int w = 0; w < 3; w++)
                word[w] = 32 * w + lane < LIMBS ? -word[w] : word[w];
            carry();
        }
        __syncwarp();
        store(space);
        __syncwarp();
        int top = highest_limb(LIMBS);
        if (top < 0)
            return 0.0;
        int highest = 32 * top + 63 - __clzll(space[top]);
        // Bits at and above `low` are kept: 53 of them, or all where the sum has fewer.
        int low = highest < 52 ? 0 : highest - 52;
        uint64_t bits = ((uint64_t)low << 52) + (window(space, low) & ((1ull << 53) - 1));
        if (low > 0) {
            int at = low - 1;
            bool half = (window(space, at) & 1) != 0;
            bool rest = highest_limb(at / 32) >= 0 || (space[at / 32] & ((1ll << at % 32) - 1)) != 0;
            bits += half && (rest || (bits & 1) != 0);
        }
        double magnitude = __longlong_as_double(low >= 2046 ? 0x7ff0000000000000 : (int64_t)bits);
        return negative ? -magnitude : magnitude;
    }

    // The highest limb below `end` that is not 0; -1 where all are.
    __device__ __forceinline__ int highest_limb(int end) const {
        int highest = -1;
#pragma unroll
        for (int w = 0; w < 3; w++) {
            int i = 32 * w + threadIdx.x % 32;
            uint32_t those = __ballot_sync(ALL_LANES, i < end && word[w] != 0);
            highest = those != 0 ? 32 * w + 31 - __clz(those) : highest;
        }
        return highest;
    }

    // 64 bits of the limbs from bit `from` on.
    static __device__ __forceinline__ uint64_t window(const int64_t (&limbs)[WORDS], int from) {
        int i = from / 32, shift = from % 32;
        uint64_t next = i + 1 < LIMBS ? limbs[i + 1] : 0, last = i + 2 < LIMBS ? limbs[i + 2] : 0;
        return (uint64_t)limbs[i] >> shift | next << (32 - shift) | (shift > 0 ? last << (64 - shift) : 0);
    }

    __device__ __forceinline__ void load(const int64_t *words) {
#pragma unroll
        for (int w = 0; w < 3; w++) {
            int i = 32 * w + threadIdx.x % 32;
            word[w] = i < WORDS ? words[i] : 0;
        }
    }

    __device__ __forceinline__ void store(int64_t *words) const {
#pragma unroll
        for (int w = 0; w < 3; w++) {
            int i = 32 * w + threadIdx.x % 32;
            if (i < WORDS)
                words[i] = word[w];
        }
    }
};

// One pass over the elements of rows, in the blocks, the lanes and the order of a sum: those of this warp, whose first
// blocks are the group `group`, and which goes on by `groups`. Elements(source, place) are the elements of one row from
// a place on, with
//   ready()                           whether four can be accessed at once
//   group<IN_FLIGHT>(at, sum, count)  adds IN_FLIGHT times four, 16 apart, from element `at` on
//   one(e, sum, count)                adds the first, as element e of its four
// `count` counts what is not finite. Sums are added up if `wanted`.
template <typename Elements, int IN_FLIGHT, typename Source>
__device__ __forceinline__ WarpAccumulator sum_blocks(const Source &source, int64_t rows, int64_t width, int64_t group,
                                                      int64_t groups, bool wanted) {
    WarpAccumulator sum;
    uint32_t nonfinite = 0;
    int64_t numel = rows * width;
    int lane = threadIdx.x % 32;
    for (; group * WARP_BLOCKS * SUM_BLOCK < numel; group += groups) {
        BlockSum block;
        int64_t start = (group * WARP_BLOCKS + lane / BLOCK_LANES) * SUM_BLOCK;
        Place place(start, rows, width);
        Elements elements(source, place);
        if (place.column + SUM_BLOCK <= width && start < numel && elements.ready()) {
#pragma unroll 1
            for (int step = 0; step < BLOCK_STEPS; step += IN_FLIGHT)
                elements.template group<IN_FLIGHT>(lane % BLOCK_LANES * 4 + step * 16, block, nonfinite);
        } else {
            int64_t first = start + lane % BLOCK_LANES * 4;
#pragma unroll 1
            for (int64_t at = first; at < first + SUM_BLOCK && at < numel; at += 16) {
                Place place(at, rows, width);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (at + e < numel)
                        Elements(source, place).one(e, block, nonfinite);
                    place.next(width);
                }
            }
        }
        if (wanted)
            sum.add<BLOCK_LANES>(block.total());
    }
    sum.add_nonfinite(nonfinite);
    return sum;
}

// Word threadIdx.x of the sum over the warps of the block, of at least WORDS threads, which all call it.
template <int WARPS>
__device__ __forceinline__ int64_t block_word(const WarpAccumulator &mine, int64_t (&space)[WARPS][WORDS]) {
    mine.store(space[threadIdx.x / 32]);
    __syncthreads();
    int64_t sum = 0;
    if (threadIdx.x < WORDS)
        for (int warp = 0; warp < WARPS; warp++)
            sum += space[warp][threadIdx.x];
    return sum;
}

// Adds the block's words, one of each thread below WORDS, to the accumulator in memory. The launch carries it when all
// blocks have; a block that is the only one does so here. All threads call it.
template <int WARPS>
__device__ __forceinline__ void add_block_words(int64_t *accumulator, int64_t word, int64_t (&space)[WARPS][WORDS]) {
    if (gridDim.x > 1) {
        if (threadIdx.x < WORDS && word != 0)
            atomicAdd((unsigned long long *)&accumulator[threadIdx.x], (unsigned long long)word);
        return;
    }
    __syncthreads();
    if (threadIdx.x < WORDS)
        space[0][threadIdx.x] = accumulator[threadIdx.x] + word;
    __syncthreads();
    if (threadIdx.x < 32) {
        WarpAccumulator sum;
        sum.load(space[0]);
        sum.carry();
        sum.store(accumulator);
    }
}
