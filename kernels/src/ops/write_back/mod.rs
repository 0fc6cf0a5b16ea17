//! weight = master, rounded as every optimizer rounds it: the weight of master weights that were set, not stepped.
//!
//! | argument | shape | dtype |
//! |---|---|---|
//! | master | any, rows contiguous | f32 |
//! | weight | that of master, rows contiguous | f32, bf16 or f16 |
//!
//! bf16 is rounded to nearest with ties away from zero, f16 with ties to even; denormals are kept and f32 is a copy.
//!
//! Tolerance: none; the bits that an optimizer writes for the same master, everywhere (which NaN a NaN becomes is not
//! specified).

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// weight = master, rounded.
#[derive(Clone, Copy, Debug)]
pub struct WriteBack<'a> {
    /// Master weights.
    pub master: View<'a>,
    /// What the model reads.
    pub weight: View<'a>,
}

impl Op for WriteBack<'_> {
    const NAME: &'static str = "write_back";

    views!(master, weight);

    fn check(&self) -> Result<(), Invalid> {
        self.master.expect_dtype("master", &[DType::F32])?;
        self.master.expect_rows("master")?;
        self.weight.expect_dtype("weight", &DType::FLOATS)?;
        self.weight.expect_shape("weight", self.master.shape(), "the shape of master")?;
        self.weight.expect_writable_rows("weight")?;
        self.weight.expect_apart("weight", &self.master, "master")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
