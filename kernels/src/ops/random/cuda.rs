use super::{Distribution, Random, largest_below};
use crate::backend::cuda::elementwise::{Elementwise, Stream};
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtype;

/// `UniformParameters` of random.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniformParameters {
    tensors: Elementwise<1>,
    stream: Stream,
    low: f32,
    range: f32,
    limit: f32,
    padding: u32,
}

/// `NormalParameters` of random.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct NormalParameters {
    tensors: Elementwise<1>,
    stream: Stream,
    mean: f32,
    deviation: f32,
}

pub(super) fn run(op: &Random<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let dtype = op.y.dtype();
    let Some((tensors, launch, stream)) = Elementwise::random(gpu, [op.y], op.key, op.first_index) else {
        return Ok(());
    };
    match op.distribution {
        Distribution::Uniform { low, high } => {
            let limit = largest_below(dtype, high);
            let parameters = UniformParameters { tensors, stream, low, range: high - low, limit, padding: 0 };
            // SAFETY: the parameters are those of random.cu, and the view's memory outlives the work, as its maker promised.
            unsafe { gpu.launch("random", by_dtype!("random_uniform", dtype), launch, &parameters) }
        }
        Distribution::Normal { mean, deviation } => {
            let parameters = NormalParameters { tensors, stream, mean, deviation };
            // SAFETY: as above.
            unsafe { gpu.launch("random", by_dtype!("random_normal", dtype), launch, &parameters) }
        }
    }
}
