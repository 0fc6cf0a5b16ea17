//! accumulator += sum of x, or of x^2, exactly: the sums that decide something (gradient norms, noise statistics).
//!
//! | argument | shape | dtype |
//! |---|---|---|
//! | x | any, rows contiguous | f32, bf16 or f16 |
//! | accumulator | \[68\], contiguous | i64 |
//!
//! The elements of x, in row-major order, are summed by blocks of 256 in f64 in a fixed order, and the blocks' sums are
//! added to the fixed-point accumulator without rounding; [`crate::exact_sum`] defines every step. Squares are exact.
//! Elements that are not finite are left out and counted in accumulator\[67\].
//!
//! Tolerance: none. The accumulator's words are a function of the elements and of the words' earlier value, the same at
//! every level, for any number of threads and for any division of x into calls at multiples of 256 elements. After a
//! call the accumulator is carried. Zero elements only carry it.
//!
//! Source: Neal 2015, "Fast exact summation using small and large superaccumulators".

mod cpu;
pub(crate) mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::exact_sum::{Accumulator, WORDS, WorkerSums};
use crate::view::{Invalid, View};

/// One call; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct ExactSum<'a> {
    /// The elements.
    pub x: View<'a>,
    /// Whether to sum x^2 instead of x.
    pub square: bool,
    /// What the sum is added to.
    pub accumulator: View<'a>,
}

/// Requires a writable accumulator.
pub(crate) fn check_accumulator(argument: &'static str, accumulator: &View<'_>) -> Result<(), Invalid> {
    accumulator.expect_dtype(argument, &[DType::I64])?;
    accumulator.expect_shape(argument, &[WORDS], "67 limbs and a count")?;
    accumulator.expect_contiguous(argument)
}

/// Adds `sum` to the accumulator in memory, and carries it.
pub(crate) fn add_to(accumulator: &View<'_>, sum: &Accumulator) {
    // SAFETY: the operation's check required 68 contiguous, writable i64.
    let accumulator = unsafe { &mut *accumulator.ptr::<i64>().cast::<Accumulator>() };
    accumulator.merge(sum);
    accumulator.carry();
}

/// The nearest f64 to what an accumulator in memory holds, and how many elements were not finite.
pub fn read(accumulator: &[i64; WORDS]) -> (f64, u64) {
    let accumulator = Accumulator { words: *accumulator };
    (accumulator.sum(), accumulator.nonfinite())
}

impl Op for ExactSum<'_> {
    const NAME: &'static str = "exact_sum";

    views!(x, accumulator);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        check_accumulator("accumulator", &self.accumulator)?;
        self.accumulator.expect_apart("accumulator", &self.x, "x")
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
