use super::Axpy;
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtypes;

/// `Parameters` of axpy.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<3>,
    alpha: f32,
    padding: u32,
}

pub(super) fn run(op: &Axpy<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.x, op.y, op.y]) else { return Ok(()) };
    let parameters = Parameters { tensors, alpha: op.alpha, padding: 0 };
    let kernel = by_dtypes!("axpy", op.x.dtype(), op.y.dtype());
    // SAFETY: the parameters are those of axpy.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("axpy", kernel, launch, &parameters) }
}
