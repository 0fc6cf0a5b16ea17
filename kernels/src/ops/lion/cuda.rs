use super::{Constants, Lion};
use crate::backend::cuda::{CudaError, Gpu};
use crate::ops::optimizer::cuda::{by_moment, launch, launch_blocks};
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
    let tensors = op.tensors();
    let (gradient, from) = (op.gradient, op.gradient.dtype());
    match tensors.plain() {
        Some((master, [moment], None)) => {
            launch(gpu, "lion", by_dtype!("lion", from), [gradient, master, moment], &tensors, rule)
        }
        Some((master, [moment], Some(weight))) => {
            let kernel = by_dtypes!("lion", from, weight.dtype());
            launch(gpu, "lion", kernel, [gradient, master, moment, weight], &tensors, rule)
        }
        None => launch_blocks(gpu, "lion", by_moment!("lion_blocks", tensors), &tensors, rule),
    }
}
