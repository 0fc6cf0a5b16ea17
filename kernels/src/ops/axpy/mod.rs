//! y = alpha x + y.
//!
//! x and y have one shape of 0 to 5 dimensions, contiguous rows and each a dtype of f32, bf16, f16; they share no
//! memory. alpha x + y is rounded once to f32 (a fused multiply-add), then to y's dtype, both to nearest even.
//!
//! Tolerance: none; the same bits at every level and for any number of threads (which NaN is not specified). Zero
//! elements do nothing.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// y = alpha x + y.
#[derive(Clone, Copy, Debug)]
pub struct Axpy<'a> {
    /// Factor; any value.
    pub alpha: f32,
    /// What is added.
    pub x: View<'a>,
    /// Sum, in place.
    pub y: View<'a>,
}

impl Op for Axpy<'_> {
    const NAME: &'static str = "axpy";

    views!(x, y);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        self.y.expect_dtype("y", &DType::FLOATS)?;
        self.y.expect_shape("y", self.x.shape(), "the shape of x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_apart("y", &self.x, "x")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
