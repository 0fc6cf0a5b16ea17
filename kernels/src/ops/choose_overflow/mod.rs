//! Which rank's find is the first overflow, where [`super::first_overflow`] has searched each rank's part of the
//! gradients.
//!
//! | argument | shape | dtype | |
//! |---|---|---|---|
//! | found | \[2 ranks\], contiguous | i64 | the words overflow and largest of each rank's control block |
//! | control | \[10\] | i64 | a [`Control`] that [`super::step_control`] wrote, updated |
//!
//! Nothing is done unless control.search is set. Then control's overflow and largest become those of the rank with the
//! largest `largest`; of equal ones, with the largest mark, which is the earliest parameter; of equal ones, of the
//! lowest rank. control.overflow_rank says which. Words count as unsigned.
//!
//! Tolerance: none; the same bits on every device.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use super::step_control::{Control, check_control};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// Words that a rank finds: overflow and largest.
pub const FOUND_WORDS: usize = 2;

// They stand together in a control block.
const _: () = assert!(std::mem::offset_of!(Control, largest) == std::mem::offset_of!(Control, overflow) + 8);

/// One call; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct ChooseOverflow<'a> {
    /// What each rank has found.
    pub found: View<'a>,
    /// The control block.
    pub control: View<'a>,
}

impl ChooseOverflow<'_> {
    fn ranks(&self) -> usize {
        self.found.numel() / FOUND_WORDS
    }
}

impl Op for ChooseOverflow<'_> {
    const NAME: &'static str = "choose_overflow";

    views!(found, control);

    fn check(&self) -> Result<(), Invalid> {
        self.found.expect_dtype("found", &[DType::I64])?;
        self.found.expect_ndim("found", 1, 1)?;
        self.found.expect_contiguous("found")?;
        let words = self.found.numel();
        if words == 0 || !words.is_multiple_of(FOUND_WORDS) {
            return Err(Invalid::new("found", format!("{words} words must be {FOUND_WORDS} for each rank")));
        }
        check_control(&self.control)?;
        self.control.expect_apart("control", &self.found, "found")
    }

    fn cpu(&self, _: &Cpu<'_>) {
        cpu::run(self);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
