#include "state.cuh"

struct Parameters {
    const int64_t *nonfinite;
    LossScaleState *state;
    float growth_factor, backoff_factor, minimum, maximum;
    uint32_t growth_interval, hysteresis;
};

__device__ __forceinline__ uint32_t one_more(uint32_t count) { return count == UINT32_MAX ? count : count + 1; }

// One thread.
extern "C" __global__ void loss_scale(const __grid_constant__ Parameters p) {
    LossScaleState s = *p.state;
    bool overflow = *p.nonfinite != 0;
    s.collapsed = overflow && s.scale <= p.minimum;
    if (overflow) {
        s.overflows++;
        s.finite_steps = 0;
        s.overflows_in_a_row = one_more(s.overflows_in_a_row);
        if (s.overflows_in_a_row >= p.hysteresis)
            s.scale = fmaxf(__fmul_rn(s.scale, p.backoff_factor), p.minimum);
    } else {
        s.overflows_in_a_row = 0;
        s.finite_steps = one_more(s.finite_steps);
        if (s.finite_steps >= p.growth_interval) {
            s.finite_steps = 0;
            s.scale = fminf(__fmul_rn(s.scale, p.growth_factor), p.maximum);
        }
    }
    *p.state = s;
}
