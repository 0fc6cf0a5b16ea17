// From sums in memory to c: the parts of k are added in their order, then as in the product's own end.
#include "gemm.cuh"

template <typename T> __device__ __forceinline__ void finish(const Parameters &p) {
    int64_t width = padded_columns(p), groups = width / GROUP, size = p.batches * p.m * width;
    int64_t batch = p.first_batch + blockIdx.z;
    Place place(p, batch);
    for (int64_t row = blockIdx.x; row < p.m; row += gridDim.x) {
        for (int64_t group = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; group < groups;
             group += (int64_t)gridDim.y * blockDim.x) {
            const float *from = p.sums + (batch * p.m + row) * width + group * GROUP;
            float4 sum = *(const float4 *)from;
            for (int part = 1; part < p.parts; part++) {
                float4 more = *(const float4 *)(from + part * size);
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }
            float x[GROUP] = {sum.x, sum.y, sum.z, sum.w};
            finish_in_dtype<T>(p, place, row, group * GROUP, x);
        }
    }
}

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ __launch_bounds__(256, 4) void gemm_finish_##suffix(const __grid_constant__ Parameters p) {  \
        finish<type>(p);                                                                                               \
    }
FOR_EACH_DTYPE(KERNEL)
