#include "dtype.cuh"
#include "view.cuh"

struct Parameters {
    View dy;
    float *sums; // of each block of rows, `n` each
    int64_t rows, n;
    int64_t block_rows; // a multiple of GROUP
    char *dbias;
    int64_t accumulate;
};

// Rows that are added to each other before they join the block's sum.
constexpr int GROUP = 4;
constexpr int WARPS = 8, THREADS = 32 * WARPS;

// Column sums of a block of rows in the order of the CPU: groups of rows ((0 + 1) + (2 + 3)), then group after group.
// Each warp reads one group of eight, in packs of N elements; then each thread adds the eight sums of one column.
template <typename T, int N> __device__ __forceinline__ void sum_block(const Parameters &p) {
    constexpr int COLUMNS = 32 * N;
    __shared__ float space[2][WARPS][COLUMNS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t strip = (int64_t)blockIdx.x * COLUMNS, column = strip + lane * N;
    int64_t first = (int64_t)blockIdx.y * p.block_rows;
    int64_t last = first + p.block_rows < p.rows ? first + p.block_rows : p.rows;
    float sum = 0.0f;
    int turn = 0;
    for (int64_t base = first; base < last; base += WARPS * GROUP, turn ^= 1) {
        int64_t row = base + warp * GROUP;
        int here = row >= last ? 0 : last - row < GROUP ? (int)(last - row) : GROUP;
        if (column < p.n && here > 0) {
            Pack<T, N> pack[GROUP];
#pragma unroll
            for (int r = 0; r < GROUP; r++)
                if (r < here)
                    pack[r] = *(const Pack<T, N> *)(p.dy.row<T>(row + r) + column);
#pragma unroll
            for (int e = 0; e < N; e++) {
                float x = to_f32(pack[0].at[e]);
                if (here > 1)
                    x += to_f32(pack[1].at[e]);
                if (here == 3)
                    x += to_f32(pack[2].at[e]);
                if (here > 3)
                    x += to_f32(pack[2].at[e]) + to_f32(pack[3].at[e]);
                space[turn][warp][lane * N + e] = x;
            }
        }
        // The other half of the space is read until the next barrier.
        __syncthreads();
        if (threadIdx.x < COLUMNS && strip + threadIdx.x < p.n) {
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                if (base + w * GROUP < last) {
                    float x = space[turn][w][threadIdx.x];
                    sum = base == first && w == 0 ? x : sum + x;
                }
        }
    }
    if (threadIdx.x < COLUMNS && strip + threadIdx.x < p.n)
        p.sums[blockIdx.y * p.n + strip + threadIdx.x] = sum;
}

template <typename T> __device__ __forceinline__ void finish(const Parameters &p) {
    int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.n)
        return;
    int64_t blocks = p.rows == 0 ? 0 : (p.rows + p.block_rows - 1) / p.block_rows;
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t block = 0; block < blocks; block++)
        sum += p.sums[block * p.n + column];
    T *dbias = (T *)p.dbias + column;
    *dbias = from_f32<T>(p.accumulate ? to_f32(*dbias) + sum : sum);
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ __launch_bounds__(THREADS) void bias_gradient_##suffix(                                      \
        const __grid_constant__ Parameters p) {                                                                        \
        sum_block<type, PER_ACCESS<type>>(p);                                                                          \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(THREADS) void bias_gradient_scalar_##suffix(                               \
        const __grid_constant__ Parameters p) {                                                                        \
        sum_block<type, 1>(p);                                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void bias_gradient_finish_##suffix(const __grid_constant__ Parameters p) { finish<type>(p); }
FOR_EACH_DTYPE(KERNEL)
