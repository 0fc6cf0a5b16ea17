//! y = a + b, the residual connection, rounded once to f32 and then to the dtype.
//!
//! Shapes: all tensors have one shape of 0 to 5 dimensions and one dtype of f32, bf16, f16; rows are contiguous.
//!
//! Tolerance: none; the sum of the elements in f32, rounded to nearest even, has the same bits everywhere (those of
//! NaN excepted).

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// y = a + b.
#[derive(Clone, Copy)]
pub struct Add<'a> {
    /// One summand.
    pub a: View<'a>,
    /// The other.
    pub b: View<'a>,
    /// Their sum; may be `a` or `b`.
    pub y: View<'a>,
}

impl Op for Add<'_> {
    const NAME: &'static str = "add";

    views!(a, b, y);

    fn check(&self) -> Result<(), Invalid> {
        self.a.expect_dtype("a", &DType::FLOATS)?;
        self.a.expect_rows("a")?;
        self.b.expect_like("b", &self.a, "a")?;
        self.b.expect_rows("b")?;
        self.y.expect_like("y", &self.a, "a")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.a, "a")?;
        self.y.expect_same_or_apart("y", &self.b, "b")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
