// Element types and their conversions, the same bits as the CPU's (which NaN a NaN becomes excepted).
#pragma once
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }

// f32 to T, nearest with ties to even.
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// f32 to bf16, nearest with ties away from zero: how every optimizer writes weights back.
__device__ __forceinline__ bf16 bf16_nearest_away(float x) {
    uint32_t bits = __float_as_uint(x);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return __ushort_as_bfloat16(nan ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)((bits + 0x8000u) >> 16));
}

// N elements that move as one access.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

// Stores a pack in global memory as one access: the compiler makes several of some assignments.
template <typename T, int N> __device__ __forceinline__ void store_pack(void *to, const Pack<T, N> &pack) {
    uint32_t word[sizeof(pack) / 4 + 1];
    memcpy(word, &pack, sizeof(pack));
    if constexpr (sizeof(pack) == 16)
        asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(to)), "r"(word[0]),
                     "r"(word[1]), "r"(word[2]), "r"(word[3])
                     : "memory");
    else if constexpr (sizeof(pack) == 8)
        asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(__cvta_generic_to_global(to)), "r"(word[0]), "r"(word[1])
                     : "memory");
    else
        *(Pack<T, N> *)to = pack;
}

// Elements in a 16-byte access.
template <typename T> constexpr int PER_ACCESS = 16 / sizeof(T);

// Declares one kernel for each float dtype: FOR_EACH_DTYPE(KERNEL) with KERNEL(suffix, type).
#define FOR_EACH_DTYPE(KERNEL) KERNEL(f32, float) KERNEL(bf16, bf16) KERNEL(f16, f16)

// One for each pair: FOR_EACH_DTYPE_PAIR(KERNEL) with KERNEL(suffix, type, suffix, type).
#define FOR_EACH_DTYPE_PAIR(KERNEL)                                                                                    \
    KERNEL(f32, float, f32, float)                                                                                     \
    KERNEL(f32, float, bf16, bf16)                                                                                     \
    KERNEL(f32, float, f16, f16)                                                                                       \
    KERNEL(bf16, bf16, f32, float)                                                                                     \
    KERNEL(bf16, bf16, bf16, bf16)                                                                                     \
    KERNEL(bf16, bf16, f16, f16)                                                                                       \
    KERNEL(f16, f16, f32, float)                                                                                       \
    KERNEL(f16, f16, bf16, bf16)                                                                                       \
    KERNEL(f16, f16, f16, f16)
