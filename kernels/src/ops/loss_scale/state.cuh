// The state of a loss scaler: `LossScaleState` in mod.rs.
#pragma once
#include <cstdint>

struct LossScaleState {
    float scale;
    uint32_t finite_steps;
    uint64_t overflows;
    uint32_t overflows_in_a_row, collapsed;
};

static_assert(sizeof(LossScaleState) == 24, "LossScaleState in mod.rs has this layout");
