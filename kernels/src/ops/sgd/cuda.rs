use super::Sgd;
use crate::backend::cuda::{CudaError, Gpu};
use crate::ops::optimizer::cuda::{by_moment, launch, launch_blocks};
use crate::{by_dtype, by_dtypes};

/// `Sgd` of sgd.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Plain {
    weight_decay: f32,
    rate: f32,
    padding: u32,
}

/// `Momentum` of sgd.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Momentum {
    plain: Plain,
    momentum: f32,
    one_minus_dampening: f32,
    nesterov: i32,
    first_step: i32,
}

pub(super) fn run(op: &Sgd<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let plain = Plain { weight_decay: op.weight_decay, rate: -op.learning_rate, padding: 0 };
    let (gradient, from) = (op.gradient, op.gradient.dtype());
    let Some(buffer) = op.momentum_buffer else {
        let tensors = op.tensors([]);
        return match tensors.plain() {
            Some((master, [], None)) => launch(gpu, "sgd", by_dtype!("sgd", from), [gradient, master], &tensors, plain),
            Some((master, [], Some(weight))) => {
                let kernel = by_dtypes!("sgd", from, weight.dtype());
                launch(gpu, "sgd", kernel, [gradient, master, weight], &tensors, plain)
            }
            None => launch_blocks(gpu, "sgd", "sgd_blocks_f32", &tensors, plain),
        };
    };
    let rule = Momentum {
        plain,
        momentum: op.momentum,
        one_minus_dampening: op.one_minus_dampening(),
        nesterov: op.nesterov.into(),
        first_step: op.first_step.into(),
    };
    let tensors = op.tensors([buffer]);
    match tensors.plain() {
        Some((master, [buffer], None)) => {
            let kernel = by_dtype!("sgd_momentum", from);
            launch(gpu, "sgd", kernel, [gradient, master, buffer], &tensors, rule)
        }
        Some((master, [buffer], Some(weight))) => {
            let kernel = by_dtypes!("sgd_momentum", from, weight.dtype());
            launch(gpu, "sgd", kernel, [gradient, master, buffer, weight], &tensors, rule)
        }
        None => launch_blocks(gpu, "sgd", by_moment!("sgd_momentum_blocks", tensors), &tensors, rule),
    }
}
