use super::WriteBack;
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `Parameters` of write_back.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<2>,
}

pub(super) fn run(op: &WriteBack<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.master, op.weight]) else { return Ok(()) };
    let kernel = by_dtype!("write_back", op.weight.dtype());
    // SAFETY: the parameters are those of write_back.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("write_back", kernel, launch, &Parameters { tensors }) }
}
