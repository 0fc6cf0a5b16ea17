// Whole kernels, compiled as the kernels that ship are:
//   nvcc -ptx -arch=compute_80 -fmad=false programs.cu
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ float table[4] = {1, 2, 3, 4};
__constant__ float weights[3] = {1.5f, 2, 3};
__device__ float *pointer = table;

// z[i] = a * x[i] + y[i]
extern "C" __global__ void axpy(float *z, const float *x, const float *y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = a * x[i] + y[i];
}

// The module's variables, through a pointer that an initialiser holds.
extern "C" __global__ void variables(float *out) {
    int i = threadIdx.x;
    out[i] = pointer[i & 3] * weights[i % 3];
    if (i == 0) table[3] = 40;
}

// Lanes leave the loop one after another.
extern "C" __global__ void collatz(int *steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned x = i + 1;
    int count = 0;
    while (x != 1) {
        if (x & 1) x = 3 * x + 1;
        else x >>= 1;
        count++;
    }
    steps[i] = count;
}

__device__ __noinline__ float horner(float x, int terms) {
    float sum = 0;
    for (int i = 0; i < terms; i++) sum = sum * x + 1.0f;
    return sum;
}

// Calls of a function that is not inlined, from both sides of a branch; an array in local memory; a switch.
extern "C" __global__ void calls(float *out, int n) {
    int i = threadIdx.x;
    float v = (i & 1) ? horner(0.5f, i) : horner(0.25f, 2 * i) + 1.0f;
    float local[8];
    for (int j = 0; j < 8; j++) local[j] = v * j;
    float w = local[(i * n) & 7];
    switch (i % 6) {
        case 0: w += 1; break;
        case 1: w *= 2; break;
        case 2: w = -w; break;
        case 3: w = w * w; break;
        case 4: w = 0; break;
        default: w -= 3;
    }
    out[i] = w;
}

// Sum of a block: shared memory, barriers, shuffles; the last block sums the blocks.
__device__ unsigned finished;
extern "C" __global__ void total(float *out, float *partial, const float *x, int n) {
    __shared__ float warps[32];
    __shared__ bool last;
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0;
        for (int o = 16; o; o >>= 1) sum += __shfl_down_sync(~0u, sum, o);
    }
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(&finished, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float all = 0;
        for (int b = 0; b < gridDim.x; b++) all += partial[b];
        *out = all;
    }
}

// The tile of a product, with dynamic shared memory.
extern "C" __global__ void tiled(float *c, const float *a, const float *b, int n) {
    extern __shared__ float tile[];
    float *ta = tile, *tb = tile + 256;
    int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        ta[y * 16 + x] = a[row * n + k + x];
        tb[y * 16 + x] = b[(k + y) * n + column];
        __syncthreads();
        for (int j = 0; j < 16; j++) sum += ta[y * 16 + j] * tb[j * 16 + x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

// bf16 in and out, eight at a time.
struct alignas(16) Eight { __nv_bfloat162 v[4]; };
extern "C" __global__ void gelu(Eight *out, const Eight *in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Eight x = in[i], y;
    for (int j = 0; j < 4; j++) {
        float2 f = __bfloat1622float2(x.v[j]);
        f.x = 0.5f * f.x * (1.0f + tanhf(0.7978845608f * (f.x + 0.044715f * f.x * f.x * f.x)));
        f.y = 0.5f * f.y * (1.0f + erff(f.y * 0.70710678f));
        y.v[j] = __floats2bfloat162_rn(f.x, f.y);
    }
    out[i] = y;
}

// Math functions with slow paths.
extern "C" __global__ void math(float *out, const float *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    out[i] = sinf(v);
    out[n + i] = expf(v);
    out[2 * n + i] = logf(fabsf(v));
    out[3 * n + i] = powf(fabsf(v), 1.3f);
    out[4 * n + i] = v / 3.1f;
    out[5 * n + i] = (float)exp((double)v);
    out[6 * n + i] = __half2float(hexp(__float2half(v)));
    out[7 * n + i] = rsqrtf(fabsf(v));
}

// Counts, votes and reductions.
extern "C" __global__ void votes(unsigned *out, int limit) {
    unsigned i = threadIdx.x;
    out[i] = __ballot_sync(~0u, i % 3 == 0);
    out[64 + i] = __any_sync(~0u, i == limit) + 2 * __all_sync(~0u, i < limit);
    out[128 + i] = __reduce_add_sync(~0u, i);
    out[192 + i] = __match_any_sync(~0u, i % 5);
    out[256 + i] = __syncthreads_count(i % 2 == 0) + 1000 * __syncthreads_and(i < limit) + 10000 * __syncthreads_or(i == 3);
    if (i & 1) out[320 + i] = __activemask(); else out[320 + i] = 0;
    if (i % 32 < 8) out[384 + i] = __shfl_up_sync(0xff, i, 1, 4); else out[384 + i] = 7;
}

// Each atomic operation.
extern "C" __global__ void atomics(int *i, unsigned *u, float *f, double *d, unsigned long long *l, __nv_bfloat162 *h) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&i[0], t); atomicMin(&i[1], -t); atomicMax(&i[2], t);
    atomicAnd(&u[0], ~(1u << (t & 31))); atomicOr(&u[1], 1u << (t & 31)); atomicXor(&u[2], t);
    atomicInc(&u[3], 9); atomicDec(&u[4], 9);
    unsigned old = u[5], assumed;
    do { assumed = old; old = atomicCAS(&u[5], assumed, assumed + 2); } while (old != assumed);
    atomicAdd(f, 0.5f); atomicAdd(d, 0.25); atomicAdd(l, 1ull << 33); atomicMax(l + 1, (unsigned long long)t << 32);
    atomicAdd(h, __floats2bfloat162_rn(1, 2));
    __shared__ int s;
    if (threadIdx.x == 0) s = 0;
    __syncthreads();
    atomicAdd(&s, 1);
    __syncthreads();
    if (threadIdx.x == 0) atomicExch(&i[3], s);
}

// A lock that every thread of a block takes.
extern "C" __global__ void lock(int *word, int *count) {
    bool done = false;
    while (!done) {
        if (atomicCAS(word, 0, 1) == 0) {
            *(volatile int *)count = *(volatile int *)count + 1;
            __threadfence();
            atomicExch(word, 0);
            done = true;
        }
    }
}

// One warp waits for what another writes, without a barrier.
extern "C" __global__ void flag(int *out) {
    __shared__ volatile int ready;
    if (threadIdx.x == 0) ready = 0;
    __syncthreads();
    if (threadIdx.x < 32) { while (ready == 0) {} out[threadIdx.x] = ready; }
    else if (threadIdx.x == 32) ready = 5;
}
