// Sorts the places by token, stably, so that each token's places stay in ascending order: a radix sort, eight bits in a
// pass. A pass counts the digits of each chunk of places, adds the counts up, and moves the places.
#include "dtype.cuh"
#include "reduce.cuh"
#include "view.cuh"

struct Parameters {
    View tokens;                   // of elements: what the first pass reads
    const uint32_t *token, *place; // what the others read; null in the first
    uint32_t *to_token, *to_place;
    uint32_t *counts; // of each digit, of each chunk; then where the chunk's places of the digit go
    int64_t places, vocabulary;
    int64_t chunks;
    int64_t shift;
};

constexpr int DIGITS = 256, WARPS = 8, THREADS = 32 * WARPS;
// Places of a lane and of a block: CHUNK in cuda.rs.
constexpr int STEPS = 8, CHUNK = THREADS * STEPS;

// The token at a place of the input; all that are not in the table are the first one beyond it.
__device__ __forceinline__ uint32_t token_at(const Parameters &p, int64_t i) {
    if (p.token != nullptr)
        return p.token[i];
    int32_t token = *p.tokens.row<int32_t>(i);
    return token >= 0 && token < p.vocabulary ? (uint32_t)token : (uint32_t)p.vocabulary;
}

// The lanes with the same digit; those with none have digit DIGITS.
__device__ __forceinline__ uint32_t same_digit(uint32_t digit) {
    uint32_t same = ALL_LANES;
#pragma unroll
    for (int bit = 0; bit < 9; bit++) {
        bool set = digit >> bit & 1;
        uint32_t lanes = __ballot_sync(ALL_LANES, set);
        same &= set ? lanes : ~lanes;
    }
    return same;
}

// A warp's places of a chunk: a stretch of it, 32 at a time.
__device__ __forceinline__ int64_t place_of_step(int step) {
    return (int64_t)blockIdx.x * CHUNK + threadIdx.x / 32 * (32 * STEPS) + step * 32 + threadIdx.x % 32;
}

// Counts of each warp. All threads of the block call it, and wait afterwards.
__device__ __forceinline__ void count_digits(const Parameters &p, uint32_t (&count)[WARPS][DIGITS]) {
    for (int i = threadIdx.x; i < WARPS * DIGITS; i += THREADS)
        count[i / DIGITS][i % DIGITS] = 0;
    __syncthreads();
    uint32_t *mine = count[threadIdx.x / 32];
    for (int step = 0; step < STEPS; step++) {
        int64_t i = place_of_step(step);
        uint32_t digit = i < p.places ? token_at(p, i) >> p.shift & (DIGITS - 1) : DIGITS;
        uint32_t same = same_digit(digit);
        if (digit < DIGITS && threadIdx.x % 32 == __ffs(same) - 1)
            mine[digit] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
}

extern "C" __global__ __launch_bounds__(THREADS) void embedding_sort_count(const __grid_constant__ Parameters p) {
    __shared__ uint32_t count[WARPS][DIGITS];
    count_digits(p, count);
    uint32_t sum = 0;
    for (int warp = 0; warp < WARPS; warp++)
        sum += count[warp][threadIdx.x];
    p.counts[threadIdx.x * p.chunks + blockIdx.x] = sum;
}

// Each count becomes the sum of all before it. One block.
extern "C" __global__ __launch_bounds__(1024) void embedding_sort_scan(const __grid_constant__ Parameters p) {
    __shared__ uint32_t sums[2][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, turn = 0;
    uint32_t before = 0;
    for (int64_t base = 0; base < DIGITS * p.chunks; base += 1024, turn ^= 1) {
        int64_t i = base + threadIdx.x;
        uint32_t count = i < DIGITS * p.chunks ? p.counts[i] : 0, sum = count;
#pragma unroll
        for (int apart = 1; apart < 32; apart *= 2) {
            uint32_t below = __shfl_up_sync(ALL_LANES, sum, apart);
            sum += lane >= apart ? below : 0;
        }
        if (lane == 31)
            sums[turn][warp] = sum;
        __syncthreads();
        uint32_t of_warp = sums[turn][lane], mine = 0, all = 0;
#pragma unroll
        for (int w = 0; w < 32; w++) {
            uint32_t x = __shfl_sync(ALL_LANES, of_warp, w);
            mine += w < warp ? x : 0;
            all += x;
        }
        if (i < DIGITS * p.chunks)
            p.counts[i] = before + mine + sum - count;
        before += all;
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void embedding_sort_move(const __grid_constant__ Parameters p) {
    __shared__ uint32_t next[WARPS][DIGITS];
    count_digits(p, next);
    // Where the warp's first place of the digit goes.
    uint32_t start = p.counts[threadIdx.x * p.chunks + blockIdx.x];
    for (int warp = 0; warp < WARPS; warp++) {
        uint32_t count = next[warp][threadIdx.x];
        next[warp][threadIdx.x] = start;
        start += count;
    }
    __syncthreads();
    uint32_t *mine = next[threadIdx.x / 32];
    uint32_t lanes_below = (1u << threadIdx.x % 32) - 1;
    for (int step = 0; step < STEPS; step++) {
        int64_t i = place_of_step(step);
        bool here = i < p.places;
        uint32_t token = here ? token_at(p, i) : 0;
        uint32_t digit = here ? token >> p.shift & (DIGITS - 1) : DIGITS;
        uint32_t same = same_digit(digit);
        uint32_t at = here ? mine[digit] + __popc(same & lanes_below) : 0;
        __syncwarp();
        if (here) {
            p.to_token[at] = token;
            p.to_place[at] = p.place != nullptr ? p.place[i] : (uint32_t)i;
            if (threadIdx.x % 32 == __ffs(same) - 1)
                mine[digit] += __popc(same);
        }
        __syncwarp();
    }
}
