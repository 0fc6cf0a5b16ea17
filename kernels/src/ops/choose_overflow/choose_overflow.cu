#include "../step_control/control.cuh"

struct Found {
    unsigned long long overflow, largest;
};

struct Parameters {
    const Found *found;
    int64_t ranks;
    Control *control;
};

// One thread: there are as many words as ranks.
extern "C" __global__ void choose_overflow(const __grid_constant__ Parameters p) {
    if (threadIdx.x != 0 || !p.control->search)
        return;
    Found first = p.found[0];
    uint32_t of = 0;
    for (int64_t rank = 1; rank < p.ranks; rank++) {
        Found other = p.found[rank];
        if (other.largest > first.largest || (other.largest == first.largest && other.overflow > first.overflow))
            first = other, of = (uint32_t)rank;
    }
    p.control->overflow = first.overflow, p.control->largest = first.largest, p.control->overflow_rank = of;
}
