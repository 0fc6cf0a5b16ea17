// Element-wise maps: any number of input tensors to any number of output tensors of one shape, each with a dtype of its
// own, and if asked with a random word per element.
//
// A kernel's parameter holds the `Tensors`; `Elementwise` in elementwise.rs makes them and sizes the launch. The kernel
// calls elementwise<Types<inputs...>, Types<outputs...>>(p.tensors, f), where f(x, y) computes the outputs y[0], y[1],
// ... of one element from its inputs x[0], x[1], ..., all f32. An output may be an input, exactly: each thread reads
// its elements of all inputs before it writes them, and nothing goes through the read-only cache. The inputs are the
// first of the tensors and the outputs the last: where there are fewer tensors than both together, those in the middle
// are updated in place.
//
// A thread takes packs: as many neighbouring elements as the widest type has in 16 bytes, so that the accesses of a
// warp are contiguous in every tensor. Where an address or a stride does not allow it, a pack is one element.
#pragma once
#include "dtype.cuh"
#include "philox.cuh"
#include "view.cuh"

// Threads of a block: THREADS in elementwise.rs.
constexpr int ELEMENTWISE_THREADS = 256;

// The tensors of a map, inputs first, and how their rows are cut into packs.
template <int N> struct Tensors {
    View at[N];
    int64_t rows, width;
    int64_t packs;                 // of a row
    int64_t step_rows, step_packs; // from a thread's pack to its next: the threads of the grid, in rows and packs
    int32_t aligned;               // whether a pack moves as one access; else it is one element
    int32_t simple;                // whether rows lie at multiples of a stride in all tensors
};

// Storage types, and the largest size of one.
template <typename... T> struct Types {
    static constexpr int COUNT = sizeof...(T);
    static constexpr int WIDEST = 1;
};
template <typename T, typename... Rest> struct Types<T, Rest...> {
    static constexpr int COUNT = 1 + sizeof...(Rest);
    static constexpr int WIDEST = sizeof(T) > Types<Rest...>::WIDEST ? (int)sizeof(T) : Types<Rest...>::WIDEST;
};

// bf16 that is stored rounded to nearest with ties away from zero, as every optimizer writes weights back.
struct bf16_away {
    bf16 value;
};
__device__ __forceinline__ float to_f32(bf16_away x) { return to_f32(x.value); }
template <> __device__ __forceinline__ bf16_away from_f32<bf16_away>(float x) { return {bf16_nearest_away(x)}; }

// The bits of a 16-bit float in the low half of the f32's: for copies, and for maps that round by themselves.
struct bits16 {
    uint16_t bits;
};
__device__ __forceinline__ float to_f32(bits16 x) { return __uint_as_float(x.bits); }
template <> __device__ __forceinline__ bits16 from_f32<bits16>(float x) { return {(uint16_t)__float_as_uint(x)}; }

// A pack of N elements of each of some tensors, at the addresses at[0], at[1], ...
template <int N, typename... T> struct Packs {
    __device__ __forceinline__ void load(char *const *) {}
    __device__ __forceinline__ void load_part(char *const *, int) {}
    __device__ __forceinline__ void store(char *const *) const {}
    __device__ __forceinline__ void store_part(char *const *, int) const {}
    __device__ __forceinline__ void get(int, float *) const {}
    __device__ __forceinline__ void set(int, const float *) {}
};
template <int N, typename T, typename... Rest> struct Packs<N, T, Rest...> {
    Pack<T, N> first;
    Packs<N, Rest...> rest;

    __device__ __forceinline__ void load(char *const *at) {
        first = *(const Pack<T, N> *)at[0];
        rest.load(at + 1);
    }
    // The first n elements; the others are 0.
    __device__ __forceinline__ void load_part(char *const *at, int n) {
#pragma unroll
        for (int e = 0; e < N; e++)
            first.at[e] = e < n ? ((const T *)at[0])[e] : from_f32<T>(0.0f);
        rest.load_part(at + 1, n);
    }
    __device__ __forceinline__ void store(char *const *at) const {
        store_pack(at[0], first);
        rest.store(at + 1);
    }
    __device__ __forceinline__ void store_part(char *const *at, int n) const {
#pragma unroll
        for (int e = 0; e < N; e++)
            if (e < n)
                ((T *)at[0])[e] = first.at[e];
        rest.store_part(at + 1, n);
    }
    // Element e of each tensor.
    __device__ __forceinline__ void get(int e, float *x) const {
        x[0] = to_f32(first.at[e]);
        rest.get(e, x + 1);
    }
    __device__ __forceinline__ void set(int e, const float *y) {
        first.at[e] = from_f32<T>(y[0]);
        rest.set(e, y + 1);
    }
};

// Calls f for each element of a pack.
template <typename F> struct Plain {
    F f;
    template <int N, typename... I, typename... O>
    __device__ __forceinline__ void operator()(const Packs<N, I...> &in, Packs<N, O...> &out, uint64_t) {
#pragma unroll
        for (int e = 0; e < N; e++) {
            float x[sizeof...(I) + 1], y[sizeof...(O)];
            in.get(e, x);
            f(x, y);
            out.set(e, y);
        }
    }
};

// Calls f for each element of a pack, the first of which has row-major index `index`, with its random number.
template <typename F> struct Random {
    F f;
    const Philox &stream;
    template <int N, typename... I, typename... O>
    __device__ __forceinline__ void operator()(const Packs<N, I...> &in, Packs<N, O...> &out, uint64_t index) {
        uint32_t word[N];
        stream.words<N>(stream.first + index, [this](uint32_t (&block)[4]) { f.draw(block); }, word);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float x[sizeof...(I) + 1], y[sizeof...(O)];
            in.get(e, x);
            f(x, y, word[e]);
            out.set(e, y);
        }
    }
};

// Where a thread is.
struct Position {
    int64_t row, pack;

    template <int TENSORS> __device__ __forceinline__ void advance(const Tensors<TENSORS> &t) {
        row += t.step_rows, pack += t.step_packs;
        if (pack >= t.packs)
            row++, pack -= t.packs;
    }
};

// Applies f to all packs of N elements, TURN of a thread at a time so that as many loads are in flight.
template <int N, int TURN, int TENSORS, typename... I, typename... O, typename F>
__device__ __forceinline__ void for_each_pack(const Tensors<TENSORS> &t, Types<I...>, Types<O...>, F f) {
    constexpr int INPUTS = sizeof...(I), FIRST_OUTPUT = TENSORS - (int)sizeof...(O);
    constexpr int INPUT_SIZE[] = {sizeof(I)..., 0}, OUTPUT_SIZE[] = {sizeof(O)...};
    auto size = [&](int i) { return i < INPUTS ? INPUT_SIZE[i] : OUTPUT_SIZE[i - FIRST_OUTPUT]; };
    Position here = {0, (int64_t)blockIdx.x * ELEMENTWISE_THREADS + threadIdx.x};
    if (here.pack >= t.packs)
        here.row = here.pack / t.packs, here.pack %= t.packs;
    while (here.row < t.rows) {
        char *at[TURN][TENSORS];
        uint64_t index[TURN];
        Position next = here;
        bool whole = t.simple;
#pragma unroll
        for (int k = 0; k < TURN; k++) {
            int64_t column = next.pack * N;
            index[k] = next.row * t.width + column;
            whole = whole && next.row < t.rows && (N == 1 || column + N <= t.width);
#pragma unroll
            for (int i = 0; i < TENSORS; i++)
                at[k][i] = t.at[i].data + (next.row * t.at[i].stride[0] + column) * size(i);
            next.advance(t);
        }
        if (whole) {
            Packs<N, I...> in[TURN];
#pragma unroll
            for (int k = 0; k < TURN; k++)
                in[k].load(at[k]);
#pragma unroll
            for (int k = 0; k < TURN; k++) {
                Packs<N, O...> out;
                f(in[k], out, index[k]);
                out.store(at[k] + FIRST_OUTPUT);
            }
            here = next;
            continue;
        }
        // One pack, so that the next turn may be whole.
        int64_t column = here.pack * N, left = t.width - column;
#pragma unroll
        for (int i = 0; i < TENSORS; i++)
            at[0][i] = t.at[i].data + (t.at[i].offset(here.row) + column) * size(i);
        Packs<N, I...> in;
        Packs<N, O...> out;
        if (N == 1 || left >= N)
            in.load(at[0]);
        else
            in.load_part(at[0], (int)left);
        f(in, out, here.row * t.width + column);
        if (N == 1 || left >= N)
            out.store(at[0] + FIRST_OUTPUT);
        else
            out.store_part(at[0] + FIRST_OUTPUT, (int)left);
        here.advance(t);
    }
}

template <int TURN, typename In, typename Out, int TENSORS, typename F>
__device__ __forceinline__ void for_each_element(const Tensors<TENSORS> &t, F f) {
    static_assert(In::COUNT <= TENSORS && Out::COUNT <= TENSORS && In::COUNT + Out::COUNT >= TENSORS,
                  "the tensors are the inputs and the outputs");
    constexpr int PACK = 16 / (In::WIDEST > Out::WIDEST ? In::WIDEST : Out::WIDEST);
    if (t.aligned)
        for_each_pack<PACK, TURN>(t, In(), Out(), f);
    else
        for_each_pack<1, TURN>(t, In(), Out(), f);
}

// Applies f(x, y) to all elements.
template <typename In, typename Out, int TENSORS, typename F>
__device__ __forceinline__ void elementwise(const Tensors<TENSORS> &t, F f) {
    constexpr int TURN = In::COUNT <= 1 ? 4 : In::COUNT == 2 ? 2 : 1;
    for_each_element<TURN, In, Out>(t, Plain<F>{f});
}

// Applies f(x, y, number) to all elements. The numbers of the four elements of a Philox block are its words, changed in
// place by f.draw(block). Made by `Elementwise::random`: packs are of whole blocks.
template <typename In, typename Out, int TENSORS, typename F>
__device__ __forceinline__ void elementwise_random(const Tensors<TENSORS> &t, const Philox &stream, F f) {
    for_each_element<In::COUNT <= 1 ? 2 : 1, In, Out>(t, Random<F>{f, stream});
}

// A base of f for elementwise_random whose numbers are the words.
struct DrawsWords {
    __device__ __forceinline__ void draw(uint32_t (&)[4]) const {}
};
