//! y = x or y += x, counting what is not finite and, if asked, adding the exact sum of squares of x, in one pass:
//! a gradient enters its accumulator.
//!
//! | argument | shape | dtype |
//! |---|---|---|
//! | x | any, rows contiguous | f32, bf16 or f16 |
//! | y | that of x, rows contiguous | f32 or bf16 |
//! | nonfinite | \[1\] | i64 |
//! | square_sum | \[68\], contiguous; optional | i64 |
//! | overflow | \[1\]; optional | i64 |
//!
//! With overwrite, y = x; without, y = y + x, rounded to f32. Where y is bf16, that is rounded to it; both to nearest even.
//! nonfinite\[0\] grows by the number
//! of elements of x that are NaN or infinite. square_sum grows exactly as [`super::exact_sum`] says with squares, its
//! word 67 by the same number. With such an element, overflow\[0\] becomes overflow_mark if that is larger; both count
//! as unsigned.
//!
//! Tolerance: none; the same bits at every level and for any number of threads (which NaN a NaN becomes is not
//! specified). Zero elements change nothing but carry square_sum.
//!
//! Source: gradient accumulation; Neal 2015 for the sum.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use super::exact_sum::check_accumulator;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::exact_sum::WorkerSums;
use crate::view::{Invalid, View};

/// One call; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct Accumulate<'a> {
    /// What is added.
    pub x: View<'a>,
    /// Whether y is set to x instead of added to; y is then not read.
    pub overwrite: bool,
    /// The accumulated gradient.
    pub y: View<'a>,
    /// Count of the elements of x that are not finite, added to.
    pub nonfinite: View<'a>,
    /// Accumulator of the sum of squares of x, added to.
    pub square_sum: Option<View<'a>>,
    /// Record of overflows.
    pub overflow: Option<View<'a>>,
    /// Its value for this x; the largest stays.
    pub overflow_mark: u64,
}

impl Op for Accumulate<'_> {
    const NAME: &'static str = "accumulate";

    views!(x, y, nonfinite; square_sum, overflow);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        self.y.expect_dtype("y", &[DType::F32, DType::BF16])?;
        self.y.expect_shape("y", self.x.shape(), "the shape of x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_apart("y", &self.x, "x")?;
        self.nonfinite.expect_dtype("nonfinite", &[DType::I64])?;
        self.nonfinite.expect_shape("nonfinite", &[1], "one count")?;
        self.nonfinite.expect_apart("nonfinite", &self.x, "x")?;
        self.nonfinite.expect_apart("nonfinite", &self.y, "y")?;
        if let Some(square_sum) = &self.square_sum {
            check_accumulator("square_sum", square_sum)?;
            square_sum.expect_apart("square_sum", &self.x, "x")?;
            square_sum.expect_apart("square_sum", &self.y, "y")?;
            square_sum.expect_apart("square_sum", &self.nonfinite, "nonfinite")?;
        }
        if let Some(overflow) = &self.overflow {
            overflow.expect_dtype("overflow", &[DType::I64])?;
            overflow.expect_shape("overflow", &[1], "one mark")?;
            let others = [
                ("x", Some(self.x)),
                ("y", Some(self.y)),
                ("nonfinite", Some(self.nonfinite)),
                ("square_sum", self.square_sum),
            ];
            overflow.expect_apart_from("overflow", &others)?;
        }
        Ok(())
    }

    fn workspace(&self, workers: usize) -> usize {
        WorkerSums::workspace(workers)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
