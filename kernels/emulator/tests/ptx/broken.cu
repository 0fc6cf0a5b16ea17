// Kernels that are wrong in one way each:
//   nvcc -ptx -arch=compute_80 -fmad=false broken.cu
#include <cuda_pipeline.h>
#define KERNEL extern "C" __global__ void

KERNEL write_past_end(float *x, int n) { x[threadIdx.x + n] = 1; }
KERNEL read_past_end(float *x, const float *y, int n) { x[threadIdx.x] = y[threadIdx.x + n]; }
KERNEL read_byte_past_end(char *x, const char *y, int n) { x[threadIdx.x] = y[threadIdx.x + n]; }
KERNEL read_before(float *x, const float *y) { x[threadIdx.x] = y[(int)threadIdx.x - 1]; }
KERNEL misaligned(float *x, const char *y, int offset) { x[threadIdx.x] = *(const float *)(y + 4 * threadIdx.x + offset); }
KERNEL vector_misaligned(float4 *x, const float *y) { x[threadIdx.x] = *(const float4 *)(y + 1 + 4 * threadIdx.x); }
KERNEL null(float *x) { x[threadIdx.x] = *(volatile float *)0; }

KERNEL shared_past_end(float *x, int n) {
    extern __shared__ float s[];
    s[threadIdx.x + n] = 1;
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x + n];
}
KERNEL shared_uninitialised(float *x) {
    __shared__ float s[64];
    if (threadIdx.x != 5) s[threadIdx.x] = 1;
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
KERNEL race_between_warps(float *x) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    x[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL race_after_read(float *x) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    float v = s[63 - threadIdx.x];
    s[threadIdx.x] = v + 1;
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
KERNEL race_of_one_store(float *x) {
    __shared__ float s[1];
    s[0] = threadIdx.x;
    __syncthreads();
    x[threadIdx.x] = s[0];
}
KERNEL race_in_warp(float *x) {
    __shared__ float s[32];
    if (threadIdx.x < 16) { s[threadIdx.x] = x[threadIdx.x]; s[threadIdx.x + 16] = 2; }
    x[threadIdx.x] = s[threadIdx.x ^ 16];
}
KERNEL race_with_atomic(int *x) {
    __shared__ int s;
    if (threadIdx.x == 0) s = 0;
    __syncthreads();
    atomicAdd(&s, 1);
    x[threadIdx.x] = s;
}
KERNEL no_race_in_warp(float *x) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    __syncwarp();
    float v = s[threadIdx.x ^ 1];
    __syncwarp();
    s[threadIdx.x] = v;
    __syncthreads();
    x[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL no_race_named_barriers(float *x) {
    __shared__ float s[128];
    int half = threadIdx.x / 64, t = threadIdx.x % 64;
    s[threadIdx.x] = threadIdx.x;
    asm volatile("bar.sync %0, 64;" ::"r"(1 + half) : "memory");
    x[threadIdx.x] = s[half * 64 + 63 - t];
}
KERNEL race_wrong_named_barrier(float *x) {
    __shared__ float s[128];
    int half = threadIdx.x / 64;
    s[threadIdx.x] = threadIdx.x;
    asm volatile("bar.sync %0, 64;" ::"r"(1 + half) : "memory");
    x[threadIdx.x] = s[127 - threadIdx.x];
}
KERNEL divergent_barrier(float *x) {
    if (threadIdx.x < 16) { __syncthreads(); x[threadIdx.x] = 1; }
    else x[threadIdx.x] = 2;
}
KERNEL barrier_of_one_warp(float *x) {
    if (threadIdx.x < 32) __syncthreads();
    x[threadIdx.x] = 2;
}
KERNEL early_exit(float *x, int n) {
    if (threadIdx.x >= n) return;
    __syncthreads();
    x[threadIdx.x] = 2;
}
KERNEL two_barriers(float *x) {
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
    else asm volatile("bar.sync 2, 64;");
    x[threadIdx.x] = 2;
}
KERNEL divergent_shuffle(float *x) {
    float v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_xor_sync(~0u, v, 1);
    x[threadIdx.x] = v;
}
KERNEL stranger_in_shuffle(float *x) { x[threadIdx.x] = __shfl_xor_sync(0xffff, (float)threadIdx.x, 1); }
KERNEL copy_without_wait(float *x, const float *y) {
    __shared__ float s[32];
    __pipeline_memcpy_async(&s[threadIdx.x], &y[threadIdx.x], 4);
    __pipeline_commit();
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
KERNEL copy_without_barrier(float *x, const float *y) {
    __shared__ float s[64];
    __pipeline_memcpy_async(&s[threadIdx.x], &y[threadIdx.x], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    x[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL copy_waits_for_too_few(float *x, const float *y) {
    __shared__ float s[64];
    for (int i = 0; i < 2; i++) {
        __pipeline_memcpy_async(&s[32 * i + threadIdx.x], &y[32 * i + threadIdx.x], 4);
        __pipeline_commit();
    }
    __pipeline_wait_prior(1);
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
    x[32 + threadIdx.x] = s[32 + threadIdx.x];
}
KERNEL copy_right(float *x, const float *y, int n) {
    __shared__ alignas(16) float s[256];
    for (int i = 0; i < 2; i++) {
        __pipeline_memcpy_async(&s[128 * i + 4 * threadIdx.x], &y[128 * i + 4 * threadIdx.x], 16, i ? n : 0);
        __pipeline_commit();
    }
    __pipeline_wait_prior(1);
    __syncthreads();
    for (int i = 0; i < 4; i++) x[32 * i + threadIdx.x] = s[32 * i + threadIdx.x];
    __pipeline_wait_prior(0);
    __syncthreads();
    for (int i = 4; i < 8; i++) x[32 * i + threadIdx.x] = s[32 * i + threadIdx.x];
}
KERNEL infinite_loop(volatile int *x) { while (*x == 0) {} }
KERNEL trapped(int *x) { if (x[threadIdx.x] == 7) __trap(); }
KERNEL local_past_end(int *x, int n) {
    int local[8];
    for (int i = 0; i < 8; i++) local[i] = x[i];
    x[threadIdx.x] = local[threadIdx.x + n];
}
