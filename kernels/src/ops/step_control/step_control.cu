#include "../loss_scale/state.cuh"
#include "control.cuh"
#include "exact_sum.cuh"
#include <cfloat>

struct Parameters {
    const int64_t *square_sum;
    const unsigned long long *overflow;     // of each rank
    const LossScaleState *loss_scale_state; // null: loss_scale
    Control *control;
    uint64_t restart_number, restart_step;
    float minimum_loss_scale, loss_scale, gradient_scale, max_norm;
    int64_t ranks;
};

// One warp, whose lanes compute the same.
extern "C" __global__ void step_control(const __grid_constant__ Parameters p) {
    __shared__ int64_t space[WORDS];
    WarpAccumulator squares;
    squares.load(p.square_sum);
    bool nonfinite = p.square_sum[LIMBS] != 0;
    Control control = *p.control;
    if (p.restart_number > control.restart)
        control.restart = p.restart_number, control.step = p.restart_step;
    control.overflow = *p.overflow, control.overflow_rank = 0;
    for (int64_t rank = 1; rank < p.ranks; rank++)
        if (p.overflow[rank] > control.overflow)
            control.overflow = p.overflow[rank], control.overflow_rank = (uint32_t)rank;
    control.loss_scale = p.loss_scale_state ? p.loss_scale_state->scale : p.loss_scale;
    double unscale = __ddiv_rn(p.gradient_scale, __dmul_rn(control.loss_scale, (double)p.ranks));
    double norm = __dmul_rn(__dsqrt_rn(squares.rounded(space)), unscale);
    double clip = p.max_norm == 0.0f ? 1.0 : fmin(__ddiv_rn(p.max_norm, __dadd_rn(norm, 1e-6)), 1.0);
    control.search = control.overflow == 0 && (nonfinite || __dmul_rn(norm, clip) > (double)FLT_MAX);
    bool skipped = control.overflow != 0 || control.search;
    control.step += !skipped && control.step != UINT64_MAX;
    control.gradient_norm = skipped ? __longlong_as_double(0x7ff8000000000000) : norm;
    control.clip_factor = skipped ? 1.0 : clip;
    control.gradient_scale = skipped ? 0.0f : __double2float_rn(__dmul_rn(unscale, clip));
    control.skipped = skipped;
    control.largest = 0;
    control.collapsed = skipped && p.loss_scale_state && control.loss_scale <= p.minimum_loss_scale;
    __syncwarp();
    if (threadIdx.x == 0)
        *p.control = control;
}
