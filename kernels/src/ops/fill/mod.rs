//! y = value, rounded to nearest even.
//!
//! y has a dtype of f32, bf16, f16, any shape of 0 to 5 dimensions and contiguous rows.
//!
//! Tolerance: none. Zero elements do nothing.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// y = value.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    /// Any value.
    pub value: f32,
    /// Output.
    pub y: View<'a>,
}

impl Op for Fill<'_> {
    const NAME: &'static str = "fill";

    views!(y);

    fn check(&self) -> Result<(), Invalid> {
        self.y.expect_dtype("y", &DType::FLOATS)?;
        self.y.expect_writable_rows("y")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
