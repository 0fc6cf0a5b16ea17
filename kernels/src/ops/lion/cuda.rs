use super::{Constants, Lion};
use crate::backend::cuda::{CudaError, Gpu};
use crate::ops::optimizer::cuda::launch;
use crate::{by_dtype, by_dtypes};

/// `Lion` of lion.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rule {
    constants: Constants,
    padding: u32,
}

pub(super) fn run(op: &Lion<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let rule = Rule { constants: op.constants(), padding: 0 };
    let Lion { gradient, master, moment, .. } = *op;
    match op.weight {
        None => {
            let kernel = by_dtype!("lion", gradient.dtype());
            launch(gpu, "lion", kernel, [gradient, master, moment], &op.tensors(), rule)
        }
        Some(weight) => {
            let kernel = by_dtypes!("lion", gradient.dtype(), weight.dtype());
            launch(gpu, "lion", kernel, [gradient, master, moment, weight], &op.tensors(), rule)
        }
    }
}
