use super::LossScale;
use crate::backend::cuda::{CudaError, Gpu, Launch};

/// `Parameters` of loss_scale.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    nonfinite: u64,
    state: u64,
    growth_factor: f32,
    backoff_factor: f32,
    minimum: f32,
    maximum: f32,
    growth_interval: u32,
    hysteresis: u32,
}

pub(super) fn run(op: &LossScale<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let parameters = Parameters {
        nonfinite: op.nonfinite.data() as u64,
        state: op.state.data() as u64,
        growth_factor: op.growth_factor,
        backoff_factor: op.backoff_factor,
        minimum: op.minimum,
        maximum: op.maximum,
        growth_interval: op.growth_interval,
        hysteresis: op.hysteresis,
    };
    // SAFETY: the parameters are those of loss_scale.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("loss_scale", "loss_scale", Launch::linear(1, 1), &parameters) }
}
