//! y = alpha x.
//!
//! x and y have one shape of 0 to 5 dimensions, one dtype of f32, bf16, f16 and contiguous rows; y may be x. The product
//! is rounded to f32, then to the dtype, both to nearest even.
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

/// y = alpha x.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a> {
    /// Factor; any value.
    pub alpha: f32,
    /// Input.
    pub x: View<'a>,
    /// Output; may be `x`.
    pub y: View<'a>,
}

impl Op for Scale<'_> {
    const NAME: &'static str = "scale";

    views!(x, y);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        self.y.expect_like("y", &self.x, "x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.x, "x")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
