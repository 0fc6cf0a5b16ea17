use super::{AdamW, Constants};
use crate::backend::cuda::{CudaError, Gpu};
use crate::ops::optimizer::cuda::{by_moment, launch, launch_blocks};
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
    let tensors = op.tensors();
    let (gradient, from) = (op.gradient, op.gradient.dtype());
    match tensors.plain() {
        Some((master, [moment1, moment2], None)) => {
            launch(gpu, "adamw", by_dtype!("adamw", from), [gradient, master, moment1, moment2], &tensors, rule)
        }
        Some((master, [moment1, moment2], Some(weight))) => {
            let kernel = by_dtypes!("adamw", from, weight.dtype());
            launch(gpu, "adamw", kernel, [gradient, master, moment1, moment2, weight], &tensors, rule)
        }
        None => launch_blocks(gpu, "adamw", by_moment!("adamw_blocks", tensors), &tensors, rule),
    }
}
