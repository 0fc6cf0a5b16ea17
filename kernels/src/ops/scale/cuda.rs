use super::Scale;
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `Parameters` of scale.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<2>,
    alpha: f32,
    padding: u32,
}

pub(super) fn run(op: &Scale<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.x, op.y]) else { return Ok(()) };
    let parameters = Parameters { tensors, alpha: op.alpha, padding: 0 };
    // SAFETY: the parameters are those of scale.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("scale", by_dtype!("scale", op.y.dtype()), launch, &parameters) }
}
