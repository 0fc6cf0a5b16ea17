use super::Add;
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `Parameters` of add.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<3>,
}

pub(super) fn run(op: &Add<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.a, op.b, op.y]) else { return Ok(()) };
    // SAFETY: the parameters are those of add.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("add", by_dtype!("add", op.y.dtype()), launch, &Parameters { tensors }) }
}
