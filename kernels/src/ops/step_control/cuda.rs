use super::StepControl;
use crate::backend::cuda::{CudaError, Gpu, Launch};

/// `Parameters` of step_control.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    square_sum: u64,
    overflow: u64,
    loss_scale_state: u64,
    control: u64,
    restart_number: u64,
    restart_step: u64,
    minimum_loss_scale: f32,
    loss_scale: f32,
    gradient_scale: f32,
    max_norm: f32,
    ranks: i64,
}

pub(super) fn run(op: &StepControl<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let parameters = Parameters {
        square_sum: op.square_sum.data() as u64,
        overflow: op.overflow.data() as u64,
        loss_scale_state: op.loss_scale_state.map_or(0, |state| state.data() as u64),
        control: op.control.data() as u64,
        restart_number: op.restart.number,
        restart_step: op.restart.step,
        minimum_loss_scale: op.minimum_loss_scale,
        loss_scale: op.loss_scale,
        gradient_scale: op.gradient_scale,
        max_norm: op.max_norm,
        ranks: op.overflow.numel() as i64,
    };
    // SAFETY: the parameters are those of step_control.cu, and the views' memory outlives the work, as their makers
    // promised.
    unsafe { gpu.launch("step_control", "step_control", Launch::linear(1, 32), &parameters) }
}
