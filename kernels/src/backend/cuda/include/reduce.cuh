// Sums and largest values over a warp and a block, in a fixed order: the same bits on every run.
#pragma once

constexpr unsigned ALL_LANES = 0xffffffffu;

template <typename T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, apart);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
    return x;
}

// Every thread of the block gets the result. `space` is shared memory for one value per warp; it may be used again by
// the next call, which all threads reach. The block's size is a multiple of 32.
template <typename T> __device__ __forceinline__ T block_sum(T x, T *space) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        space[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++)
        sum += space[warp];
    return sum;
}

__device__ __forceinline__ float block_max(float x, float *space) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        space[threadIdx.x / 32] = x;
    __syncthreads();
    float most = space[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++)
        most = fmaxf(most, space[warp]);
    return most;
}
