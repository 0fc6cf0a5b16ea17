use super::{GeluBackward, GeluForward, GeluKind};
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `ForwardParameters` of gelu.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct ForwardParameters {
    tensors: Elementwise<2>,
}

/// `BackwardParameters` of gelu.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct BackwardParameters {
    tensors: Elementwise<3>,
}

pub(super) fn forward(op: &GeluForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.x, op.y]) else { return Ok(()) };
    let kernel = match op.kind {
        GeluKind::Exact => by_dtype!("gelu_forward_exact", op.x.dtype()),
        GeluKind::Tanh => by_dtype!("gelu_forward_tanh", op.x.dtype()),
    };
    // SAFETY: the parameters are those of gelu.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("gelu", kernel, launch, &ForwardParameters { tensors }) }
}

pub(super) fn backward(op: &GeluBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch)) = Elementwise::new(gpu, [op.x, op.dy, op.dx]) else { return Ok(()) };
    let kernel = match op.kind {
        GeluKind::Exact => by_dtype!("gelu_backward_exact", op.x.dtype()),
        GeluKind::Tanh => by_dtype!("gelu_backward_tanh", op.x.dtype()),
    };
    // SAFETY: as above.
    unsafe { gpu.launch("gelu", kernel, launch, &BackwardParameters { tensors }) }
}
