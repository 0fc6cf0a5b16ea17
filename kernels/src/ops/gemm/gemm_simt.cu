// The matrix product with one fused multiply-add after the other, in the order of k: f32 operands, and 16-bit ones that
// are widened first. Tiles of both operands lie in shared memory with k as the outer dimension, whichever of the two
// is contiguous in memory; the next ones are read into registers meanwhile.
#include "gemm.cuh"

constexpr int THREADS = 256, STEP = 16;

// What a thread brings of an operand at each step: SIDE / 16 elements, 4 at a time.
template <typename T, int SIDE> struct Loader {
    static constexpr int COUNT = SIDE * STEP / THREADS / 4;
    // Rows padded so that the writes of elements one by one meet each bank once.
    static constexpr int LINE = SIDE + 4;

    const T *data;
    int64_t stride;
    int64_t side_left, k_left; // from the tile's corner, at the step to be read
    bool along_k, aligned;
    float held[COUNT][4];

    __device__ __forceinline__ Loader(const T *matrix, int64_t stride, bool along_k, int64_t first_side, int64_t sides,
                                      int64_t first_k, int64_t last_k, bool aligned)
        : data(matrix + (along_k ? first_side * stride + first_k : first_k * stride + first_side)), stride(stride),
          side_left(sides - first_side), k_left(last_k - first_k), along_k(along_k), aligned(aligned) {}

    // Row or column, and k, of this thread's i-th four.
    __device__ __forceinline__ void at(int i, int &side, int &k) const {
        int index = threadIdx.x + i * THREADS;
        side = along_k ? index / (STEP / 4) : index % (SIDE / 4) * 4;
        k = along_k ? index % (STEP / 4) * 4 : index / (SIDE / 4);
    }

    __device__ __forceinline__ void read() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int side, k;
            at(i, side, k);
            int64_t along = along_k ? k_left - k : side_left - side, across = along_k ? side_left - side : k_left - k;
            int count = across <= 0 || along <= 0 ? 0 : (int)min(along, (int64_t)4);
            load_group(held[i], data + (along_k ? side * stride + k : k * stride + side), aligned, count);
        }
        data += along_k ? STEP : STEP * stride;
        k_left -= STEP;
    }

    __device__ __forceinline__ void write(float *tile) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int side, k;
            at(i, side, k);
            if (along_k) {
#pragma unroll
                for (int j = 0; j < 4; j++)
                    tile[(k + j) * LINE + side] = held[i][j];
            } else {
                *(float4 *)(tile + k * LINE + side) = make_float4(held[i][0], held[i][1], held[i][2], held[i][3]);
            }
        }
    }
};

// A block computes SIDE by SIDE of c; a thread 4 by 4 of each quarter, or of the whole if SIDE is 64.
template <typename T, int SIDE> __device__ __forceinline__ void product(const Parameters &p) {
    constexpr int QUARTERS = SIDE / 64, MINE = 4 * QUARTERS, LINE = SIDE + 4;
    constexpr int TILE = STEP * LINE;
    // Two tiles of each operand; at the end, 64 rows of sums.
    __shared__ __align__(16) float shared[4 * TILE];
    static_assert(64 * SIDE <= 4 * TILE, "the sums fit");

    int64_t tile_row, tile_column;
    tile_of_block((p.m + SIDE - 1) / SIDE, (p.n + SIDE - 1) / SIDE, tile_row, tile_column);
    int64_t first_row = tile_row * SIDE, first_column = tile_column * SIDE;
    int64_t batch = p.first_batch + blockIdx.z;
    int part = blockIdx.y;
    int64_t first_k = part * p.part, last_k = min(first_k + p.part, p.k);
    int steps = (int)((last_k - first_k + STEP - 1) / STEP);

    Loader<T, SIDE> a((const T *)p.a.data + batch_offset(p, p.a, batch), p.a.stride, !p.transpose_a, first_row, p.m,
                      first_k, last_k, p.a_aligned);
    Loader<T, SIDE> b((const T *)p.b.data + batch_offset(p, p.b, batch), p.b.stride, p.transpose_b, first_column, p.n,
                      first_k, last_k, p.b_aligned);
    int down = threadIdx.x / 16 * 4, across = threadIdx.x % 16 * 4;
    float sums[MINE][MINE] = {};

    if (steps > 0) {
        a.read();
        b.read();
    }
    for (int step = 0; step < steps; step++) {
        float *a_tile = shared + step % 2 * 2 * TILE, *b_tile = a_tile + TILE;
        a.write(a_tile);
        b.write(b_tile);
        // The other pair of tiles is free after this too: everyone has left the step before.
        __syncthreads();
        if (step + 1 < steps) {
            a.read();
            b.read();
        }
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float x[MINE], y[MINE];
#pragma unroll
            for (int quarter = 0; quarter < QUARTERS; quarter++) {
                float4 u = *(const float4 *)(a_tile + k * LINE + down + 64 * quarter);
                float4 v = *(const float4 *)(b_tile + k * LINE + across + 64 * quarter);
                x[4 * quarter] = u.x, x[4 * quarter + 1] = u.y, x[4 * quarter + 2] = u.z, x[4 * quarter + 3] = u.w;
                y[4 * quarter] = v.x, y[4 * quarter + 1] = v.y, y[4 * quarter + 2] = v.z, y[4 * quarter + 3] = v.w;
            }
#pragma unroll
            for (int i = 0; i < MINE; i++)
#pragma unroll
                for (int j = 0; j < MINE; j++)
                    sums[i][j] = __fmaf_rn(x[i], y[j], sums[i][j]);
        }
    }

    // Sums pass through shared memory, 64 rows at a time, so that a warp stores whole stretches of rows.
    Place place(p, batch);
#pragma unroll
    for (int above = 0; above < QUARTERS; above++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int quarter = 0; quarter < QUARTERS; quarter++) {
                const float *four = &sums[4 * above + i][4 * quarter];
                *(float4 *)(shared + (down + i) * SIDE + across + 64 * quarter) =
                    make_float4(four[0], four[1], four[2], four[3]);
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < 64 * SIDE / 4; i += THREADS) {
            int row = i / (SIDE / 4), column = i % (SIDE / 4) * 4;
            float4 four = *(const float4 *)(shared + row * SIDE + column);
            float x[4] = {four.x, four.y, four.z, four.w};
            put<T>(p, place, batch, part, first_row + 64 * above + row, first_column + column, x);
        }
    }
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ __launch_bounds__(THREADS,                                                                   \
                                            2) void gemm_simt_64x64_##suffix(const __grid_constant__ Parameters p) {   \
        product<type, 64>(p);                                                                                          \
    }
FOR_EACH_DTYPE(KERNEL)

extern "C" __global__ __launch_bounds__(THREADS, 2) void gemm_simt_128x128_f32(const __grid_constant__ Parameters p) {
    product<float, 128>(p);
}
