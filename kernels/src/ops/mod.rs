//! The operations. Each folder holds one: its contract (`mod.rs`), its oracle (`reference.rs`), its fast version for
//! the CPU (`cpu.rs`), and its device version (`<op>.cu`), which `cuda.rs` launches.

/// [`Op::views`] of an operation: its tensors, then, after a semicolon, those that may be absent.
macro_rules! views {
    ($($view:ident),* $(; $($optional:ident),*)?) => {
        fn views(&self, visit: &mut dyn FnMut(&'static str, &$crate::view::View<'_>)) {
            $(visit(stringify!($view), &self.$view);)*
            $($(if let Some(view) = &self.$optional {
                visit(stringify!($optional), view);
            })*)?
        }
    };
}

pub mod accumulate;
pub mod adamw;
pub mod add;
pub mod attention;
pub mod axpy;
pub mod bias_gradient;
pub mod blockwise;
pub mod cast;
pub mod choose_overflow;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod exact_sum;
pub mod fill;
pub mod first_overflow;
pub mod gelu;
pub mod gemm;
pub mod layer_norm;
pub mod linear_cross_entropy;
pub mod lion;
pub mod loss_scale;
pub mod optimizer;
pub mod random;
pub mod rank_reduce;
pub mod rms_norm;
pub mod rotary;
pub mod scale;
pub mod sgd;
pub mod split16;
pub mod step_control;
pub mod swiglu;
pub mod write_back;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Device, Gpu, Properties};
use crate::view::{Invalid, View};

/// One call of an operation: its arguments as views and plain values.
///
/// The caller checks, lends a workspace of [`Op::workspace`] bytes, and runs; nothing else is needed, and nothing is
/// allocated while it runs.
pub trait Op {
    /// Name in messages and traces.
    const NAME: &'static str;

    /// Calls `visit` with each tensor and its name as an argument.
    fn views(&self, visit: &mut dyn FnMut(&'static str, &View<'_>));

    /// Checks dtypes, shapes, strides and overlap. Reads no element.
    fn check(&self) -> Result<(), Invalid>;

    /// Checks what only the elements can tell (token ids in range). A device that runs asynchronously skips it.
    fn check_elements(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// Bytes of workspace for a run with `workers` workers. Depends on nothing else but the shapes.
    fn workspace(&self, workers: usize) -> usize {
        let _ = workers;
        0
    }

    /// Computes on the CPU. `check` and `check_elements` have passed.
    fn cpu(&self, cpu: &Cpu<'_>);

    /// Bytes of workspace for a run on a CUDA device of these properties.
    fn cuda_workspace(&self, properties: &Properties) -> usize {
        let _ = properties;
        0
    }

    /// What runs on a CUDA device, whose context is current, where there is a choice: for traces. `check` has passed.
    fn implementation(&self, device: &Device) -> Option<&'static str> {
        let _ = device;
        None
    }

    /// Enqueues the computation on a CUDA device. `check` has passed; every view is of memory that the device reaches.
    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError>;
}
