// What a step decides, in memory of the device: `Control` in mod.rs.
#pragma once
#include <cstdint>

struct Control {
    uint64_t step, restart;
    double gradient_norm, clip_factor;
    float gradient_scale, loss_scale;
    int64_t skipped;
    unsigned long long overflow, largest;
    uint32_t overflow_rank, padding;
    uint32_t search, collapsed;
};

static_assert(sizeof(Control) == 80, "Control in mod.rs has this layout");
