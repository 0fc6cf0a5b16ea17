// What the gradients need of each query first: its log_sum_exp in base 2, and D = sum_c dout out.
#include "attention.cuh"

// Eight lanes share a row; a block has 32 rows of one head.
template <typename T> __device__ __forceinline__ void sums(const BackwardParameters &p) {
    const Problem &of = p.problem;
    unsigned parts = p.padded / 32;
    unsigned head = blockIdx.x / parts;
    int query = blockIdx.x % parts * 32 + threadIdx.x / 8, n = head / of.query_heads, h = head % of.query_heads;
    float sum = 0;
    if (query < of.t) {
        const T *x = p.out.at<T>(n, h) + query * p.out.token, *y = p.dout.at<T>(n, h) + query * p.dout.token;
        constexpr int WIDTH = PER_ACCESS<T>;
        bool aligned = p.out.aligned && p.dout.aligned;
        for (int c = threadIdx.x % 8 * WIDTH; c < of.d; c += 8 * WIDTH) {
            Pack<T, WIDTH> a, b;
            if (aligned) {
                a = *(const Pack<T, WIDTH> *)(x + c);
                b = *(const Pack<T, WIDTH> *)(y + c);
            } else {
#pragma unroll
                for (int e = 0; e < WIDTH; e++) {
                    a.at[e] = x[c + e];
                    b.at[e] = y[c + e];
                }
            }
#pragma unroll
            for (int e = 0; e < WIDTH; e++)
                sum = __fmaf_rn(to_f32(a.at[e]), to_f32(b.at[e]), sum);
        }
    }
#pragma unroll
    for (int apart = 4; apart > 0; apart /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, apart);
    if (threadIdx.x % 8 == 0) {
        bool inside = query < of.t;
        float log_sum = inside ? p.log_sum_exp.at(n, h)[query] * LOG2_E : INFINITE;
        p.sums[head * p.padded + query] = log_sum - LIFT<T>;
        p.sums[(p.heads + head) * p.padded + query] = sum;
    }
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        attention_sums_##suffix(const __grid_constant__ BackwardParameters p) {                                        \
        sums<type>(p);                                                                                                 \
    }
FOR_EACH_DTYPE(KERNEL)
