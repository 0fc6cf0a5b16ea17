use super::Fill;
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `Parameters` of fill.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<1>,
    value: f32,
    padding: u32,
}

pub(super) fn run(op: &Fill<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.y]) else { return Ok(()) };
    let parameters = Parameters { tensors, value: op.value, padding: 0 };
    // SAFETY: the parameters are those of fill.cu, and the view's memory outlives the work, as its maker promised.
    unsafe { gpu.launch("fill", by_dtype!("fill", op.y.dtype()), launch, &parameters) }
}
