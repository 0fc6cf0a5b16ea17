// The second pass of either norm's parameter gradients.
#include "rows.cuh"

#define KERNEL(suffix, type)                                                                                           \
    extern "C" __global__ __launch_bounds__(FINISH_COLUMNS *FINISH_LANES) void norm_finish_##suffix(                   \
        const __grid_constant__ FinishParameters p) {                                                                  \
        norm_finish<type>(p);                                                                                          \
    }
FOR_EACH_DTYPE(KERNEL)
