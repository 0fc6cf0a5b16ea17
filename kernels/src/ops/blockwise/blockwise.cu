#include "compact.cuh"

constexpr int THREADS = 256; // as in cuda.rs

struct Parameters {
    float *f32s;
    uint8_t *codes;
    float *absmax;
    int64_t numel;
    int64_t aligned;
    DynamicMap map;
    uint32_t padding;
};

template <bool DECODE> __device__ __forceinline__ void run(const Parameters &p) {
    __shared__ DynamicMap map;
    copy_map(map, p.map);
    __syncthreads();
    constexpr int WARPS = THREADS / 32;
    int64_t blocks = (p.numel + BLOCK - 1) / BLOCK;
    for (int64_t b = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; b < blocks; b += (int64_t)gridDim.x * WARPS) {
        int64_t at = b * BLOCK + threadIdx.x % 32 * LANE, left = p.numel - at;
        int n = (int)(left < 0 ? 0 : left < LANE ? left : LANE);
        bool whole = p.aligned && n == LANE;
        float x[LANE];
        uint8_t code[LANE];
        if constexpr (DECODE) {
            load_lane(p.codes + at, n, whole, code);
            float scale = p.absmax[b];
#pragma unroll
            for (int e = 0; e < LANE; e++)
                x[e] = __fmul_rn(map.decode(code[e]), scale);
            store_lane(p.f32s + at, n, whole, x);
        } else {
            load_lane(p.f32s + at, n, whole, x);
            float inverse, scale = scale_of(largest(x), inverse);
            if (threadIdx.x % 32 == 0)
                p.absmax[b] = scale;
#pragma unroll
            for (int e = 0; e < LANE; e++)
                code[e] = map.encode(x[e], inverse);
            store_lane(p.codes + at, n, whole, code);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) quantize(const __grid_constant__ Parameters p) { run<false>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) dequantize(const __grid_constant__ Parameters p) { run<true>(p); }
