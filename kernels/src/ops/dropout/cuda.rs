use super::{Dropout, factor, threshold};
use crate::backend::cuda::elementwise::{Elementwise, Stream};
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `Parameters` of dropout.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<2>,
    stream: Stream,
    threshold: u32,
    factor: f32,
}

pub(super) fn run(op: &Dropout<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let Some((tensors, launch, stream)) = Elementwise::random(gpu, [op.x, op.y], op.key, op.first_index) else {
        return Ok(());
    };
    let parameters =
        Parameters { tensors, stream, threshold: threshold(op.probability), factor: factor(op.probability) };
    // SAFETY: the parameters are those of dropout.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("dropout", by_dtype!("dropout", op.y.dtype()), launch, &parameters) }
}
