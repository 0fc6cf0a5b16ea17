// Rows of tables; and the sums of rows of gradients, for which the places of the tokens are sorted by token
// (embedding_sort.cu).
#include "dtype.cuh"
#include "view.cuh"

struct ForwardParameters {
    View tokens; // of elements
    View token_table, position_table, y;
    int64_t places, vocabulary, width;
    int64_t positions;
    int64_t group; // threads of a row
};

template <typename T, int N> __device__ __forceinline__ void embedding_forward(const ForwardParameters &p) {
    int group = (int)p.group, lane = threadIdx.x % group;
    int64_t packs = p.width / N, step = (int64_t)gridDim.x * (blockDim.x / group);
    for (int64_t place = (int64_t)blockIdx.x * (blockDim.x / group) + threadIdx.x / group; place < p.places;
         place += step) {
        int32_t token = *p.tokens.row<int32_t>(place);
        bool known = token >= 0 && token < p.vocabulary;
        const Pack<T, N> *from = (const Pack<T, N> *)p.token_table.row<T>(known ? token : 0);
        const Pack<T, N> *position = nullptr;
        if (p.position_table)
            position = (const Pack<T, N> *)p.position_table.row<T>((uint32_t)place % (uint32_t)p.positions);
        T *y = p.y.row<T>(place);
#pragma unroll 4
        for (int64_t i = lane; i < packs; i += group) {
            Pack<T, N> pack;
            if (known)
                pack = from[i];
            if (known && position != nullptr) {
                Pack<T, N> more = position[i];
#pragma unroll
                for (int e = 0; e < N; e++)
                    pack.at[e] = from_f32<T>(to_f32(pack.at[e]) + to_f32(more.at[e]));
            }
            if (!known) {
#pragma unroll
                for (int e = 0; e < N; e++)
                    pack.at[e] = from_f32<T>(NAN);
            }
            store_pack(y + i * N, pack);
        }
    }
}

// Places of one block, neighbours in the sorted order: WINDOW in cuda.rs.
constexpr int WINDOW = 64;

struct BackwardParameters {
    View dy;
    View table;            // [rows, width]
    const uint32_t *token; // sorted, of all places; `rows` for those that count for nothing
    const uint32_t *place;
    float *partial; // for each window [2, width]: of a token that it shares with the one before, with the next
    int64_t places, rows, width;
    int64_t positions; // of a sequence, in position_table
    int64_t accumulate;
};

template <int N> struct Sums {
    float at[N];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int e = 0; e < N; e++)
            at[e] = 0.0f;
    }
    template <typename T> __device__ __forceinline__ void add(const Pack<T, N> &pack) {
#pragma unroll
        for (int e = 0; e < N; e++)
            at[e] += to_f32(pack.at[e]);
    }
    // Into a table.
    template <typename E> __device__ __forceinline__ void finish(E *to, bool accumulate) const {
        constexpr int PIECE = N < PER_ACCESS<E> ? N : PER_ACCESS<E>;
#pragma unroll
        for (int i = 0; i < N; i += PIECE) {
            Pack<E, PIECE> piece;
            if (accumulate)
                piece = *(const Pack<E, PIECE> *)(to + i);
#pragma unroll
            for (int e = 0; e < PIECE; e++)
                piece.at[e] = from_f32<E>(accumulate ? to_f32(piece.at[e]) + at[i + e] : at[i + e]);
            store_pack(to + i, piece);
        }
    }
};

// Sums the rows of dy of each token in a window, in the order of the places. A token whose places reach beyond the
// window gets a partial sum, which `token_finish` adds up. A thread has a pack of columns.
template <typename T, typename D, int N> __device__ __forceinline__ void token_sums(const BackwardParameters &p) {
    constexpr int TURN = 4;
    __shared__ uint32_t token[WINDOW], place[WINDOW];
    int64_t first = (int64_t)blockIdx.x * WINDOW;
    int count = p.places - first < WINDOW ? (int)(p.places - first) : WINDOW;
    for (int i = threadIdx.x; i < count; i += blockDim.x)
        token[i] = p.token[first + i], place[i] = p.place[first + i];
    __syncthreads();
    int64_t column = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= p.width)
        return;
    bool from_before = first > 0 && p.token[first - 1] == token[0];
    bool into_next = first + count < p.places && p.token[first + count] == token[count - 1];
    float *partial = p.partial + (int64_t)blockIdx.x * 2 * p.width + column;
    Sums<N> sums;
    sums.clear();
    for (int base = 0; base < count; base += TURN) {
        Pack<T, N> pack[TURN];
#pragma unroll
        for (int k = 0; k < TURN; k++)
            if (base + k < count && token[base + k] < p.rows)
                pack[k] = *(const Pack<T, N> *)(p.dy.row<T>(place[base + k]) + column);
#pragma unroll
        for (int k = 0; k < TURN; k++) {
            int i = base + k;
            if (i >= count || token[i] >= p.rows)
                break;
            sums.add(pack[k]);
            bool last = i + 1 == count;
            if (!last && token[i + 1] == token[i])
                continue;
            if (from_before && token[i] == token[0])
                sums.finish(partial, false);
            else if (last && into_next)
                sums.finish(partial + p.width, false);
            else
                sums.finish(p.table.row<D>(token[i]) + column, p.accumulate);
            sums.clear();
        }
    }
}

// Adds up the partial sums of the token that begins in a window and goes on in the next.
template <typename D> __device__ __forceinline__ void token_finish(const BackwardParameters &p) {
    int64_t column = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
    int64_t window = blockIdx.x, first = window * WINDOW, next = first + WINDOW;
    if (column >= p.width || next >= p.places)
        return;
    uint32_t token = p.token[next - 1];
    bool begins = p.token[next] == token && !(first > 0 && p.token[first - 1] == token);
    if (!begins || token >= p.rows)
        return;
    float sum = p.partial[(window * 2 + 1) * p.width + column];
#pragma unroll 4
    for (; next < p.places && p.token[next] == token; next += WINDOW)
        sum += p.partial[next / WINDOW * 2 * p.width + column];
    D *to = p.table.row<D>(token) + column;
    *to = from_f32<D>(p.accumulate ? to_f32(*to) + sum : sum);
}

// Sums the rows of dy at each position over all sequences; positions without any get 0.
template <typename T, typename D, int N> __device__ __forceinline__ void position_sums(const BackwardParameters &p) {
    int64_t packs = (p.width + N - 1) / N, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < p.rows * packs; i += step) {
        int64_t position = i / packs, column = i % packs * N;
        if (position >= p.positions && p.accumulate)
            return;
        Sums<N> sums;
        sums.clear();
        if (position < p.positions)
#pragma unroll 4
            for (int64_t place = position; place < p.places; place += p.positions)
                sums.add(*(const Pack<T, N> *)(p.dy.row<T>(place) + column));
        sums.finish(p.table.row<D>(position) + column, p.accumulate);
    }
}

// Sets every row of the table to 0.
template <typename D> __device__ __forceinline__ void clear_rows(const BackwardParameters &p) {
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x)
        for (int64_t column = threadIdx.x; column < p.width; column += blockDim.x)
            p.table.row<D>(row)[column] = from_f32<D>(0.0f);
}

#define FORWARD(suffix, type)                                                                                          \
    extern "C" __global__ __launch_bounds__(256) void embedding_forward_##suffix(                                      \
        const __grid_constant__ ForwardParameters p) {                                                                 \
        embedding_forward<type, PER_ACCESS<type>>(p);                                                                  \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(256) void embedding_forward_scalar_##suffix(                               \
        const __grid_constant__ ForwardParameters p) {                                                                 \
        embedding_forward<type, 1>(p);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(256) void embedding_token_finish_##suffix(                                 \
        const __grid_constant__ BackwardParameters p) {                                                                \
        token_finish<type>(p);                                                                                         \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(256) void embedding_clear_##suffix(                                        \
        const __grid_constant__ BackwardParameters p) {                                                                \
        clear_rows<type>(p);                                                                                           \
    }
FOR_EACH_DTYPE(FORWARD)

// Kernels for rows that may be read in packs, and for others.
#define BACKWARD(suffix, type, d_suffix, d)                                                                            \
    BACKWARD_PAIR(suffix##_##d_suffix, type, d, PER_ACCESS<type>)                                                      \
    BACKWARD_PAIR(scalar_##suffix##_##d_suffix, type, d, 1)
#define BACKWARD_PAIR(suffix, type, d, n)                                                                              \
    extern "C" __global__ __launch_bounds__(128, 5) void embedding_token_sums_##suffix(                                \
        const __grid_constant__ BackwardParameters p) {                                                                \
        token_sums<type, d, n>(p);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(128) void embedding_position_sums_##suffix(                                \
        const __grid_constant__ BackwardParameters p) {                                                                \
        position_sums<type, d, n>(p);                                                                                  \
    }
BACKWARD(f32, float, f32, float)
BACKWARD(bf16, bf16, f32, float)
BACKWARD(bf16, bf16, bf16, bf16)
BACKWARD(f16, f16, f32, float)
BACKWARD(f16, f16, f16, f16)
