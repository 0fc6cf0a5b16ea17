//! Which parameter made a step overflow whose gradients were all finite as they came: the first whose accumulated
//! gradient is not finite, or, where all are and only the norm is too large, the one of the largest norm.
//!
//! | argument | shape | dtype | |
//! |---|---|---|---|
//! | gradient | \[n\], contiguous | f32 or bf16 | accumulated gradients of a group |
//! | ranges | \[p, 3\], contiguous | i64 | parameter number, first element and number of elements, for each parameter |
//! | control | \[10\] | i64 | a [`Control`] that [`super::step_control`] wrote, updated |
//!
//! Nothing is done unless control.search is set. Then each parameter has a rank: the exact sum of its squares rounded
//! once to f64, or, with an element that is not finite, more than any. control.overflow becomes the mark (micro,
//! parameter) of the largest rank met so far, over all calls since the control block was written; of equal ones, the
//! earliest parameter.
//!
//! Tolerance: none; the same bits on every device, and for any order of calls. A range must lie inside the gradient.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use super::step_control::{Control, check_control};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::exact_sum::WorkerSums;
use crate::view::{Invalid, View};

/// One call; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct FirstOverflow<'a> {
    /// Accumulated gradients.
    pub gradient: View<'a>,
    /// Where each parameter lies in them.
    pub ranges: View<'a>,
    /// The micro-batch to blame: the last.
    pub micro: u32,
    /// The control block.
    pub control: View<'a>,
}

/// Words of a range.
pub const RANGE_WORDS: usize = 3;

impl FirstOverflow<'_> {
    fn parameters(&self) -> usize {
        self.ranges.shape()[0]
    }

    /// A range: the parameter, and its first element and number of elements where they lie inside the gradient.
    fn range(&self, i: usize) -> (u32, Option<(usize, usize)>) {
        // SAFETY: the check required this many words; the host reads what only the CPU works on.
        let [parameter, start, numel] = unsafe { self.ranges.ptr::<i64>().cast::<[i64; RANGE_WORDS]>().add(i).read() };
        let all = self.gradient.numel() as i64;
        let inside = start >= 0 && numel >= 0 && start <= all && numel <= all - start;
        (parameter as u32, inside.then_some((start as usize, numel as usize)))
    }
}

impl Op for FirstOverflow<'_> {
    const NAME: &'static str = "first_overflow";

    views!(gradient, ranges, control);

    fn check(&self) -> Result<(), Invalid> {
        self.gradient.expect_dtype("gradient", &[DType::F32, DType::BF16])?;
        self.gradient.expect_ndim("gradient", 1, 1)?;
        self.gradient.expect_contiguous("gradient")?;
        self.ranges.expect_dtype("ranges", &[DType::I64])?;
        self.ranges.expect_ndim("ranges", 2, 2)?;
        self.ranges.expect_shape("ranges", &[self.parameters(), RANGE_WORDS], "three words a parameter")?;
        self.ranges.expect_contiguous("ranges")?;
        check_control(&self.control)?;
        let others = [("gradient", Some(self.gradient)), ("ranges", Some(self.ranges))];
        self.control.expect_apart_from("control", &others)
    }

    fn check_elements(&self) -> Result<(), Invalid> {
        match (0..self.parameters()).find(|i| self.range(*i).1.is_none()) {
            Some(i) => Err(Invalid::new("ranges", format!("range {i} must lie inside the gradient"))),
            None => Ok(()),
        }
    }

    fn workspace(&self, workers: usize) -> usize {
        WorkerSums::workspace(workers)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda_workspace(&self, _: &Properties) -> usize {
        self.parameters() * size_of::<u64>()
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}

/// The rank of a parameter with this sum of squares, as an integer that orders as ranks do.
fn rank(sum: f64, nonfinite: u64) -> u64 {
    if nonfinite > 0 { u64::MAX } else { sum.to_bits() }
}

/// Enters a parameter's rank and mark.
fn meet(control: &mut Control, rank: u64, mark: u64) {
    if (rank, mark) > (control.largest, control.overflow) {
        (control.largest, control.overflow) = (rank, mark);
    }
}
