use super::{AdamW, Constants};
use crate::backend::cuda::{CudaError, Gpu};
use crate::ops::optimizer::cuda::launch;
use crate::{by_dtype, by_dtypes};

/// `AdamW` of adamw.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rule {
    constants: Constants,
    learning_rate: f32,
}

pub(super) fn run(op: &AdamW<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let rule = Rule { constants: op.constants(), learning_rate: op.learning_rate };
    let AdamW { gradient, master, moment1, moment2, .. } = *op;
    match op.weight {
        None => {
            let kernel = by_dtype!("adamw", gradient.dtype());
            launch(gpu, "adamw", kernel, [gradient, master, moment1, moment2], &op.tensors(), rule)
        }
        Some(weight) => {
            let kernel = by_dtypes!("adamw", gradient.dtype(), weight.dtype());
            launch(gpu, "adamw", kernel, [gradient, master, moment1, moment2, weight], &op.tensors(), rule)
        }
    }
}
