#include "dtype.cuh"
#include "reduce.cuh"
#include "view.cuh"

struct Parameters {
    View logits, dlogits;    // null: no gradients
    View targets, losses;    // of elements, of which row r has element first + r
    const float *loss_scale; // null: 1
    int64_t first, rows, v;
    int64_t kept; // packs of a row that fit into shared memory
    float gradient_scale;
    int32_t ignore_index;
};

constexpr float LOG2_E = 1.44269504f, LEAST = -3.40282347e38f;

// e^x for x <= 0, or NaN.
__device__ __forceinline__ float exp_nonpositive(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * LOG2_E));
    return y;
}

// A row of logits as aligned packs of N: pack i has columns i N - pad, ..., of which those outside of 0, ..., v - 1 are
// not the row's.
template <typename T> struct Row {
    static constexpr int N = PER_ACCESS<T>;
    const T *first;
    int64_t v, packs;
    int pad;

    __device__ __forceinline__ Row(const T *first, int64_t v)
        : first(first), v(v), pad((int)((uintptr_t)first % 16 / sizeof(T))) {
        packs = (pad + v + N - 1) / N;
    }
    __device__ __forceinline__ int64_t column(int64_t pack) const { return pack * N - pad; }
    __device__ __forceinline__ bool whole(int64_t pack) const { return column(pack) >= 0 && column(pack) + N <= v; }
    __device__ __forceinline__ Pack<T, N> load(int64_t pack) const {
        const T *from = first + column(pack);
        if (whole(pack))
            return *(const Pack<T, N> *)from;
        Pack<T, N> part;
#pragma unroll
        for (int e = 0; e < N; e++)
            part.at[e] = column(pack) + e >= 0 && column(pack) + e < v ? from[e] : from_f32<T>(-INFINITY);
        return part;
    }
    // Stores N values where a row of another tensor has these columns.
    template <typename G> __device__ __forceinline__ void store(G *row, int64_t pack, const Pack<G, N> &values) const {
        G *to = row + column(pack);
        if (whole(pack) && (uintptr_t)to % sizeof(values) == 0) {
            store_pack(to, values);
            return;
        }
#pragma unroll
        for (int e = 0; e < N; e++)
            if (column(pack) + e >= 0 && column(pack) + e < v)
                to[e] = values.at[e];
    }
};

// The largest value so far and the sum of e^(value - largest).
struct Softmax {
    float largest = LEAST; // finite, so that nothing but -infinity adds 0
    double sum = 0.0;

    template <typename T, int N> __device__ __forceinline__ void add(const Pack<T, N> &pack) {
        float most = largest, part = 0.0f;
#pragma unroll
        for (int e = 0; e < N; e++)
            most = fmaxf(most, to_f32(pack.at[e]));
        if (most > largest) {
            sum *= exp_nonpositive(largest - most);
            largest = most;
        }
#pragma unroll
        for (int e = 0; e < N; e++)
            part += exp_nonpositive(to_f32(pack.at[e]) - largest);
        sum += part;
    }
};

template <typename G> __device__ __forceinline__ void fill(G *row, int64_t v, float value) {
    if (row == nullptr)
        return;
    Row<G> packs(row, v);
    Pack<G, Row<G>::N> pack;
#pragma unroll
    for (int e = 0; e < Row<G>::N; e++)
        pack.at[e] = from_f32<G>(value);
    for (int64_t i = threadIdx.x; i < packs.packs; i += blockDim.x)
        packs.store(row, i, pack);
}

// A block has a row at a time and reads it once: what does not fit into shared memory is read again. The gradients may
// take the place of the logits, and begin where those begin when G is narrower than L.
template <typename L, typename G> __device__ __forceinline__ void cross_entropy(const Parameters &p) {
    constexpr int N = PER_ACCESS<L>, TURN = 4;
    extern __shared__ uint4 memory[];
    __shared__ float maxima[32];
    __shared__ double sums[32];
    Pack<L, N> *kept = (Pack<L, N> *)memory;
    float scale = p.loss_scale == nullptr ? p.gradient_scale : p.gradient_scale * *p.loss_scale;
    for (int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
        int32_t target = *p.targets.row<int32_t>(p.first + r);
        float *loss = p.losses.row<float>(p.first + r);
        G *gradients = p.dlogits ? p.dlogits.row<G>(r) : nullptr;
        bool ignored = target < 0 || (p.ignore_index != 0 && target == p.ignore_index);
        if (ignored || target >= p.v) {
            float value = ignored ? 0.0f : NAN;
            fill(gradients, p.v, value);
            if (threadIdx.x == 0)
                *loss = value;
            continue;
        }
        Row<L> row(p.logits.row<L>(r), p.v);
        float chosen = to_f32(row.first[target]);
        Softmax softmax;
        for (int64_t i = threadIdx.x; i < row.packs; i += TURN * blockDim.x) {
            Pack<L, N> pack[TURN];
#pragma unroll
            for (int k = 0; k < TURN; k++)
                if (i + k * blockDim.x < row.packs)
                    pack[k] = row.load(i + k * blockDim.x);
#pragma unroll
            for (int k = 0; k < TURN; k++) {
                int64_t at = i + k * blockDim.x;
                if (at >= row.packs)
                    break;
                if (gradients != nullptr && at < p.kept)
                    kept[at] = pack[k];
                softmax.add(pack[k]);
            }
        }
        float largest = block_max(softmax.largest, maxima);
        float sum = (float)block_sum(softmax.sum * exp_nonpositive(softmax.largest - largest), sums);
        // The rounding of `largest` would not cancel against the logit if their difference were not taken first.
        if (threadIdx.x == 0)
            *loss = (largest - chosen) + logf(sum);
        if (gradients == nullptr)
            continue;
        float factor = scale / sum;
        G chosen_gradient = from_f32<G>((exp_nonpositive(chosen - largest) / sum - 1.0f) * scale);
        for (int64_t base = 0; base < row.packs; base += blockDim.x) {
            int64_t i = base + threadIdx.x;
            Pack<L, N> pack;
            if (i < row.packs)
                pack = i < p.kept ? kept[i] : row.load(i);
            // Narrower gradients end before the logits that are still to be read, once all have read these.
            if (sizeof(G) < sizeof(L) && row.packs > p.kept)
                __syncthreads();
            if (i >= row.packs)
                continue;
            Pack<G, N> out;
#pragma unroll
            for (int e = 0; e < N; e++)
                out.at[e] = from_f32<G>(exp_nonpositive(to_f32(pack.at[e]) - largest) * factor);
            int64_t place = target - row.column(i);
            if (place >= 0 && place < N) {
#pragma unroll
                for (int e = 0; e < N; e++)
                    if (e == place)
                        out.at[e] = chosen_gradient;
            }
            row.store(gradients, i, out);
        }
    }
}

#define KERNEL(suffix, logit, gradient)                                                                                \
    extern "C" __global__ __launch_bounds__(1024) void cross_entropy_##suffix(const __grid_constant__ Parameters p) {  \
        cross_entropy<logit, gradient>(p);                                                                             \
    }
KERNEL(f32, float, float)
KERNEL(bf16, bf16, bf16)
KERNEL(f16, f16, f16)
// For products whose results are f32.
KERNEL(f32_to_bf16, float, bf16)
KERNEL(f32_to_f16, float, f16)
