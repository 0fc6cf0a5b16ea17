#include "../layer_norm/rows.cuh"

#define KERNEL(suffix, type) NORM_KERNELS(rms_norm, false, suffix, type)
FOR_EACH_DTYPE(KERNEL)
