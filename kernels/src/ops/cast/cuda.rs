use super::{Cast, Rounding};
use crate::backend::cuda::elementwise::{Elementwise, Stream};
use crate::backend::cuda::{CudaError, Gpu};
use crate::by_dtypes;
use crate::dtype::DType;

/// `Parameters` of cast.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    tensors: Elementwise<2>,
}

/// `StochasticParameters` of cast.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct StochasticParameters {
    tensors: Elementwise<2>,
    stream: Stream,
}

pub(super) fn run(op: &Cast<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let (from, to, views) = (op.x.dtype(), op.y.dtype(), [op.x, op.y]);
    match op.rounding {
        Rounding::Stochastic { key, first_index } if from != to && to != DType::F32 => {
            let Some((tensors, launch, stream)) = Elementwise::random(gpu, views, key, first_index) else {
                return Ok(());
            };
            let parameters = StochasticParameters { tensors, stream };
            let kernel = by_dtypes!("cast_stochastic", from, to);
            // SAFETY: the parameters are those of cast.cu, and the views' memory outlives the work, as their makers promised.
            unsafe { gpu.launch("cast", kernel, launch, &parameters) }
        }
        _ => {
            let Some((tensors, launch)) = Elementwise::new(gpu, views) else { return Ok(()) };
            let kernel = by_dtypes!("cast", from, to);
            // SAFETY: as above.
            unsafe { gpu.launch("cast", kernel, launch, &Parameters { tensors }) }
        }
    }
}
