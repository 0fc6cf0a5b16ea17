// The matrix product of 16-bit operands on tensor cores: c in tiles, one a block, over k in steps of 32 that several
// asynchronous copies run ahead of. A warp's fragments come from shared memory by ldmatrix, which transposes where k is
// not the contiguous dimension of the operand. 16-byte pieces are permuted in shared memory so that no access meets a
// bank twice. The sums of an element are added in the order of k, whatever the tile.
#include "gemm.cuh"
#include "mma.cuh"

constexpr int STEP = 32, STAGES = 4, PIECE = 8;

// Elements in a stage's copy of an operand with SIDE rows or columns of c, and where piece `piece` of line `line` is.
// ALONG_K: lines are rows or columns of c, 4 pieces of k each; else lines are steps of k.
template <int SIDE, bool ALONG_K> __device__ __forceinline__ int piece_at(int line, int piece) {
    if (ALONG_K)
        return line * STEP + (piece ^ (line >> 1 & 3)) * PIECE;
    return line * SIDE + (piece ^ (line & 7)) * PIECE;
}

// What a thread copies of an operand at each step.
template <typename T, int SIDE, int THREADS, bool ALONG_K> struct Loader {
    static constexpr int PIECES_PER_LINE = ALONG_K ? STEP / PIECE : SIDE / PIECE;
    static constexpr int LINES = ALONG_K ? SIDE : STEP;
    static constexpr int COUNT = LINES * PIECES_PER_LINE / THREADS;
    static constexpr int LINES_APART = THREADS / PIECES_PER_LINE;

    const T *data; // of this thread's first piece
    int64_t stride;
    int64_t side_left; // of m or n, from this thread's first piece
    int64_t k_left;    // likewise
    int line, piece;
    bool aligned;

    __device__ __forceinline__ Loader(const T *matrix, int64_t stride, int64_t first_side, int64_t sides,
                                      int64_t first_k, int64_t last_k, bool aligned)
        : stride(stride), line(threadIdx.x / PIECES_PER_LINE), piece(threadIdx.x % PIECES_PER_LINE), aligned(aligned) {
        int64_t side = first_side + (ALONG_K ? line : piece * PIECE), k = first_k + (ALONG_K ? piece * PIECE : line);
        side_left = sides - side;
        k_left = last_k - k;
        data = matrix + (ALONG_K ? side * stride + k : k * stride + side);
    }

    // Copies this step's pieces to `stage` and moves on to the next step.
    __device__ __forceinline__ void load(T *stage) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            T *to = stage + piece_at<SIDE, ALONG_K>(line + i * LINES_APART, piece);
            const T *from = data + i * LINES_APART * stride;
            int64_t across = ALONG_K ? side_left - i * LINES_APART : k_left - i * LINES_APART;
            int64_t along = ALONG_K ? k_left : side_left;
            int count = across <= 0 || along <= 0 ? 0 : (int)min(along, (int64_t)PIECE);
            if (aligned) {
                copy_16_async(to, from, count * (int)sizeof(T));
            } else {
                Pack<T, PIECE> pack;
#pragma unroll
                for (int j = 0; j < PIECE; j++)
                    pack.at[j] = j < count ? from[j] : from_f32<T>(0.0f);
                *(Pack<T, PIECE> *)to = pack;
            }
        }
        data += ALONG_K ? STEP : STEP * stride;
        k_left -= STEP;
    }
};

// Fragments of 16 rows of a at 16 of k.
template <typename T, int SIDE, bool ALONG_K>
__device__ __forceinline__ void load_a(uint32_t (&fragment)[4], const T *stage, int row, int k, int lane) {
    if (ALONG_K)
        load_matrix_x4(fragment, stage + piece_at<SIDE, true>(row + lane % 16, k / PIECE + lane / 16));
    else
        load_matrix_x4_transposed(
            fragment, stage + piece_at<SIDE, false>(k + lane % 8 + lane / 16 * 8, row / PIECE + lane / 8 % 2));
}

// Fragments of two times 8 columns of b at 16 of k.
template <typename T, int SIDE, bool ALONG_K>
__device__ __forceinline__ void load_b(uint32_t (&fragment)[4], const T *stage, int column, int k, int lane) {
    if (ALONG_K)
        load_matrix_x4(fragment,
                       stage + piece_at<SIDE, true>(column + lane % 8 + lane / 16 * 8, k / PIECE + lane / 8 % 2));
    else
        load_matrix_x4_transposed(
            fragment, stage + piece_at<SIDE, false>(k + lane % 8 + lane / 8 % 2 * 8, column / PIECE + lane / 16));
}

// Where the sum at a row and column of a warp's tile is: fours permuted so that the writes of fragments do not meet.
__device__ __forceinline__ int sum_at(int row, int column) {
    return row * 32 + (column / 4 ^ (row & 3) << 1) * 4 + column % 4;
}

// A block computes ROWS by COLUMNS of c, a warp WARP_ROWS by WARP_COLUMNS of them.
template <typename T, int ROWS, int COLUMNS, int WARP_ROWS, int WARP_COLUMNS, bool TRANSPOSE_A, bool TRANSPOSE_B>
__device__ __forceinline__ void product(const Parameters &p) {
    constexpr int WARPS = ROWS / WARP_ROWS * (COLUMNS / WARP_COLUMNS), THREADS = 32 * WARPS;
    constexpr int DOWN = WARP_ROWS / 16, ACROSS = WARP_COLUMNS / 8;
    constexpr int A_ELEMENTS = ROWS * STEP, STAGE = (ROWS + COLUMNS) * STEP;
    extern __shared__ __align__(128) char shared[];
    T *stages = (T *)shared;

    int64_t tile_row, tile_column;
    tile_of_block((p.m + ROWS - 1) / ROWS, (p.n + COLUMNS - 1) / COLUMNS, tile_row, tile_column);
    int64_t first_row = tile_row * ROWS, first_column = tile_column * COLUMNS;
    int64_t batch = p.first_batch + blockIdx.z;
    int part = blockIdx.y;
    int64_t first_k = part * p.part, last_k = min(first_k + p.part, p.k);
    int steps = (int)((last_k - first_k + STEP - 1) / STEP);

    Loader<T, ROWS, THREADS, !TRANSPOSE_A> a((const T *)p.a.data + batch_offset(p, p.a, batch), p.a.stride, first_row,
                                             p.m, first_k, last_k, p.a_aligned);
    Loader<T, COLUMNS, THREADS, TRANSPOSE_B> b((const T *)p.b.data + batch_offset(p, p.b, batch), p.b.stride,
                                               first_column, p.n, first_k, last_k, p.b_aligned);

    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int warp_row = warp / (COLUMNS / WARP_COLUMNS) * WARP_ROWS;
    int warp_column = warp % (COLUMNS / WARP_COLUMNS) * WARP_COLUMNS;
    float sums[DOWN][ACROSS][4] = {};

#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage < steps) {
            a.load(stages + stage * STAGE);
            b.load(stages + stage * STAGE + A_ELEMENTS);
        }
        copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        // All copies of this step are here, and all warps are done with the step before, whose stage is filled next.
        copy_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) {
            T *stage = stages + (step + STAGES - 1) % STAGES * STAGE;
            a.load(stage);
            b.load(stage + A_ELEMENTS);
        }
        copy_commit();
        const T *stage = stages + step % STAGES * STAGE;
#pragma unroll
        for (int k = 0; k < STEP; k += 16) {
            uint32_t a_fragments[DOWN][4], b_fragments[ACROSS / 2][4];
#pragma unroll
            for (int i = 0; i < DOWN; i++)
                load_a<T, ROWS, !TRANSPOSE_A>(a_fragments[i], stage, warp_row + 16 * i, k, lane);
#pragma unroll
            for (int j = 0; j < ACROSS / 2; j++)
                load_b<T, COLUMNS, TRANSPOSE_B>(b_fragments[j], stage + A_ELEMENTS, warp_column + 16 * j, k, lane);
#pragma unroll
            for (int i = 0; i < DOWN; i++) {
#pragma unroll
                for (int j = 0; j < ACROSS; j++) {
                    uint32_t column[2] = {b_fragments[j / 2][j % 2 * 2], b_fragments[j / 2][j % 2 * 2 + 1]};
                    mma_16x8x16(sums[i][j], a_fragments[i], column, T());
                }
            }
        }
    }
    copy_wait<0>();
    __syncthreads();

    // A warp's sums pass through its own part of shared memory, so that whole pieces of rows are stored.
    static_assert(WARP_COLUMNS == 32, "a row of a warp is 8 fours");
    constexpr int PER_ROW = WARP_COLUMNS / PIECE;
    float *mine = (float *)shared + warp * WARP_ROWS * WARP_COLUMNS;
#pragma unroll
    for (int i = 0; i < 2 * DOWN; i++) {
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
            int row = 8 * i + lane / 4, column = 8 * j + lane % 4 * 2;
            *(float2 *)(mine + sum_at(row, column)) =
                make_float2(sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]);
        }
    }
    __syncwarp();
    Place place(p, batch);
#pragma unroll 1
    for (int row = lane / PER_ROW; row < WARP_ROWS; row += 32 / PER_ROW) {
        int column = lane % PER_ROW * PIECE;
        float x[PIECE];
#pragma unroll
        for (int j = 0; j < PIECE; j += 4) {
            float4 four = *(const float4 *)(mine + sum_at(row, column + j));
            x[j] = four.x, x[j + 1] = four.y, x[j + 2] = four.z, x[j + 3] = four.w;
        }
        put<T>(p, place, batch, part, first_row + warp_row + row, first_column + warp_column + column, x);
    }
}

#define KERNEL(layout, transpose_a, transpose_b, suffix, type)                                                         \
    extern "C" __global__ __launch_bounds__(256, 2) void gemm_128x128_##layout##_##suffix(                             \
        const __grid_constant__ Parameters p) {                                                                        \
        product<type, 128, 128, 64, 32, transpose_a, transpose_b>(p);                                                  \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(128, 4) void gemm_64x64_##layout##_##suffix(                               \
        const __grid_constant__ Parameters p) {                                                                        \
        product<type, 64, 64, 32, 32, transpose_a, transpose_b>(p);                                                    \
    }
#define LAYOUTS(suffix, type)                                                                                          \
    KERNEL(nn, false, false, suffix, type)                                                                             \
    KERNEL(tn, true, false, suffix, type)                                                                              \
    KERNEL(nt, false, true, suffix, type)                                                                              \
    KERNEL(tt, true, true, suffix, type)
LAYOUTS(bf16, bf16)
LAYOUTS(f16, f16)
