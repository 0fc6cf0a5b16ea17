#include "rows.cuh"

#define KERNEL(suffix, type) NORM_KERNELS(layer_norm, true, suffix, type)
FOR_EACH_DTYPE(KERNEL)
