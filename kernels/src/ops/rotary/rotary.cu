// Turns the heads of one token after the other: sines and cosines once for each position, in shared memory, then every
// head of every sequence with them.
#include "dtype.cuh"
#include "view.cuh"

struct Parameters {
    View x, y;         // [.., t, heads, d]
    View positions;    // of elements; null: 0, 1, ...
    double *frequency; // quarter turns per position of each pair
    int64_t t, heads, d;
    int64_t batch;
    double base;
    double direction;               // 1, or -1 to turn back
    int64_t tasks;                  // tokens of a block
    int64_t step_heads, step_packs; // from a thread's pack to its next: the threads of a block, in heads and packs
    int64_t tabled;                 // whether sines and cosines fit into shared memory
};

constexpr double QUARTERS_PER_RADIAN = 0.63661977236758134308;

extern "C" __global__ void rotary_frequencies(const __grid_constant__ Parameters p) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < p.d / 2; i += (int64_t)gridDim.x * blockDim.x)
        p.frequency[i] = pow(p.base, -2.0 * (double)i / (double)p.d) * QUARTERS_PER_RADIAN * p.direction;
}

// Cosine and sine of a number of quarter turns, |quarters| < 2^51: whole ones are taken off in f64, the rest is at most
// half of one. The polynomials are those of the CPU (Cephes, sinf and cosf).
__device__ __forceinline__ float2 cos_sin(double quarters) {
    double whole = rint(quarters);
    int turn = (int)((long long)whole & 3);
    float x = (float)(quarters - whole) * 1.57079633f;
    float z = x * x;
    float p = __fmaf_rn(__fmaf_rn(-0.000195152957f, z, 0.00833216123f), z, -0.166666552f);
    float sin = __fmaf_rn(z * x, p, x);
    float q = __fmaf_rn(__fmaf_rn(0.0000244331568f, z, -0.00138873165f), z, 0.0416666456f);
    float cos = __fmaf_rn(__fmaf_rn(q, z, -0.5f), z, 1.0f);
    float2 out = turn & 1 ? make_float2(sin, cos) : make_float2(cos, sin);
    out.x = (turn + 1) & 2 ? -out.x : out.x;
    out.y = turn & 2 ? -out.y : out.y;
    return out;
}

// N elements at an address that is a multiple of a pack's, or only of an element's.
template <typename T, int N, bool ALIGNED> __device__ __forceinline__ Pack<T, N> load(const T *from) {
    Pack<T, N> pack;
    if constexpr (ALIGNED) {
        pack = *(const Pack<T, N> *)from;
    } else {
#pragma unroll
        for (int e = 0; e < N; e++)
            pack.at[e] = from[e];
    }
    return pack;
}
template <typename T, int N, bool ALIGNED> __device__ __forceinline__ void store(T *to, const Pack<T, N> &pack) {
    if constexpr (ALIGNED) {
        store_pack(to, pack);
    } else {
#pragma unroll
        for (int e = 0; e < N; e++)
            to[e] = pack.at[e];
    }
}

// A block has a stretch of tokens, those of one position together. A thread has packs of N elements: of the halves of a
// head, one of each; else of pairs of neighbours.
template <typename T, bool HALVES, int N, bool ALIGNED> __device__ __forceinline__ void rotary(const Parameters &p) {
    constexpr int PAIRS = HALVES ? N : N / 2; // of a pack
    extern __shared__ float2 table[];         // cosine and sine of pair i of each pack, then of pair i + 1
    int64_t pairs = p.d / 2, packs = pairs / PAIRS;
    int64_t first = (int64_t)blockIdx.x * p.tasks, last = first + p.tasks;
    if (last > p.t * p.batch)
        last = p.t * p.batch;
    // Heads follow each other at the last stride of the view's rows.
    int64_t x_stride = p.x.stride[p.x.lead - 1], y_stride = p.y.stride[p.y.lead - 1];
    int64_t known = -1;
    double position = 0.0;
    for (int64_t task = first; task < last; task++) {
        int64_t token = task / p.batch, sequence = task - token * p.batch;
        if (token != known) {
            position = p.positions ? (double)*p.positions.row<int32_t>(token) : (double)token;
            known = token;
            if (p.tabled) {
                __syncthreads();
                for (int64_t i = threadIdx.x; i < pairs; i += blockDim.x)
                    table[i % PAIRS * packs + i / PAIRS] = cos_sin(position * p.frequency[i]);
                __syncthreads();
            }
        }
        auto turn_of = [&](int64_t pack, int pair) {
            return p.tabled ? table[pair * packs + pack] : cos_sin(position * p.frequency[pack * PAIRS + pair]);
        };
        int64_t row = (sequence * p.t + token) * p.heads;
        const T *x = p.x.row<T>(row);
        T *y = p.y.row<T>(row);
        int64_t head = threadIdx.x / packs, pack = threadIdx.x - head * packs;
        while (head < p.heads) {
            const T *from = x + head * x_stride + pack * N;
            T *to = y + head * y_stride + pack * N;
            Pack<T, N> a = load<T, N, ALIGNED>(from);
            if constexpr (HALVES) {
                Pack<T, N> b = load<T, N, ALIGNED>(from + pairs);
#pragma unroll
                for (int e = 0; e < N; e++) {
                    float2 turn = turn_of(pack, e);
                    float u = to_f32(a.at[e]), v = to_f32(b.at[e]);
                    a.at[e] = from_f32<T>(__fmaf_rn(u, turn.x, -(v * turn.y)));
                    b.at[e] = from_f32<T>(__fmaf_rn(v, turn.x, u * turn.y));
                }
                store<T, N, ALIGNED>(to + pairs, b);
            } else {
#pragma unroll
                for (int e = 0; e < N; e += 2) {
                    float2 turn = turn_of(pack, e / 2);
                    float u = to_f32(a.at[e]), v = to_f32(a.at[e + 1]);
                    a.at[e] = from_f32<T>(__fmaf_rn(u, turn.x, -(v * turn.y)));
                    a.at[e + 1] = from_f32<T>(__fmaf_rn(v, turn.x, u * turn.y));
                }
            }
            store<T, N, ALIGNED>(to, a);
            head += p.step_heads, pack += p.step_packs;
            if (pack >= packs)
                head++, pack -= packs;
        }
    }
}

// The kernels of a dtype, for rows that may be read in packs and for others.
#define KERNEL(suffix, type)                                                                                           \
    LAYOUT(halves_##suffix, type, true, PER_ACCESS<type>, true)                                                        \
    LAYOUT(halves_scalar_##suffix, type, true, 1, false)                                                               \
    LAYOUT(pairs_##suffix, type, false, PER_ACCESS<type>, true)                                                        \
    LAYOUT(pairs_scalar_##suffix, type, false, 2, false)
#define LAYOUT(suffix, type, halves, n, aligned)                                                                       \
    extern "C" __global__ __launch_bounds__(256) void rotary_##suffix(const __grid_constant__ Parameters p) {          \
        rotary<type, halves, n, aligned>(p);                                                                           \
    }
FOR_EACH_DTYPE(KERNEL)
