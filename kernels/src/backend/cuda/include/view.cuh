// Tensor views as the host passes them: `Strided` in strided.rs.
#pragma once
#include <cstdint>

struct View {
    char *data; // null: no tensor
    int64_t lead;
    int64_t extent[4];
    int64_t stride[4];

    __device__ __forceinline__ explicit operator bool() const { return data != nullptr; }

    // Offset in elements of row `row`: all dimensions but the last, in row-major order.
    __device__ __forceinline__ int64_t offset(int64_t row) const {
        if (lead <= 1)
            return row * stride[0];
        int64_t sum = 0;
#pragma unroll 1
        for (int d = (int)lead - 1; d > 0; d--) {
            sum += row % extent[d] * stride[d];
            row /= extent[d];
        }
        return sum + row * stride[0];
    }

    template <typename T> __device__ __forceinline__ T *row(int64_t row) const { return (T *)data + offset(row); }
};

static_assert(sizeof(View) == 80, "Strided in strided.rs has this layout");
