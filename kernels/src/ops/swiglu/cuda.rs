use super::{SwigluBackward, SwigluForward};
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `ForwardParameters` of swiglu.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct ForwardParameters {
    tensors: Elementwise<3>,
}

/// `BackwardParameters` of swiglu.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct BackwardParameters {
    tensors: Elementwise<5>,
}

pub(super) fn forward(op: &SwigluForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.gate, op.up, op.y]) else { return Ok(()) };
    let kernel = by_dtype!("swiglu_forward", op.y.dtype());
    // SAFETY: the parameters are those of swiglu.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("swiglu", kernel, launch, &ForwardParameters { tensors }) }
}

pub(super) fn backward(op: &SwigluBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let views = [op.gate, op.up, op.dy, op.dgate, op.dup];
    let Some((tensors, launch)) = Elementwise::new(gpu, views) else { return Ok(()) };
    let kernel = by_dtype!("swiglu_backward", op.dy.dtype());
    // SAFETY: as above.
    unsafe { gpu.launch("swiglu", kernel, launch, &BackwardParameters { tensors }) }
}
