use super::ChooseOverflow;
use crate::backend::cuda::{CudaError, Gpu, Launch};

/// `Parameters` of choose_overflow.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    found: u64,
    ranks: i64,
    control: u64,
}

pub(super) fn run(op: &ChooseOverflow<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let parameters =
        Parameters { found: op.found.data() as u64, ranks: op.ranks() as i64, control: op.control.data() as u64 };
    // SAFETY: the parameters are those of choose_overflow.cu, and the views' memory outlives the work, as their makers
    // promised.
    unsafe { gpu.launch("choose_overflow", "choose_overflow", Launch::linear(1, 32), &parameters) }
}
