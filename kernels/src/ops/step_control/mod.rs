//! What becomes of a step, decided where the gradients are: from their exact sum of squares and the record of overflows
//! to the factor that the optimizers multiply gradients by, or to their doing nothing.
//!
//! | argument | shape | dtype | |
//! |---|---|---|---|
//! | square_sum | \[68\] | i64 | sum of the squares of the accumulated gradients, as [`super::exact_sum`] leaves it |
//! | overflow | \[ranks\] | i64 | of each rank, the mark of the first gradient that was not finite ([`super::accumulate`]) |
//! | loss_scale_state | \[3\]; optional | i64 | the state of [`super::loss_scale`], whose scale is then the loss scale |
//! | control | \[10\] | i64 | a [`Control`], updated |
//!
//! All are contiguous, and control shares memory with none of the others. In f64, each operation rounded once:
//!
//! ```text
//! unscale        = gradient_scale / (loss_scale ranks)
//! norm           = sqrt(square_sum rounded to f64) unscale
//! clip           = max_norm = 0 ? 1 : min(1, max_norm / (norm + 1e-6))
//! search         = no overflow is recorded, but square_sum counts a value that is not finite, or norm clip > FLT_MAX
//! skipped        = an overflow is recorded, or search
//! gradient_scale = unscale clip, rounded to f32; 0 when skipped
//! step           = step + 1 unless skipped
//! ```
//!
//! square_sum is that of gradients summed over the ranks, which the step takes the mean of. Of marks, the earliest by
//! micro-batch, then parameter, then rank is recorded.
//!
//! The norm bounds every element: while norm clip fits f32, no element overflows when it is scaled. When skipped, the
//! figures are norm = NaN and clip = 1; with search, [`super::first_overflow`] finds the parameter to blame.
//!
//! A restart sets the number of steps taken before all else, once: when its number is larger than control's. So it may be
//! captured in a graph with the step that follows it, and replayed.
//!
//! Tolerance: none; the same bits on every device.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use super::exact_sum::check_accumulator;
use super::loss_scale::{self, LossScaleState};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// What a step decides, in memory of the device. Zeros are a state in which no step has been taken.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Control {
    /// Steps taken.
    pub step: u64,
    /// Number of the last restart.
    pub restart: u64,
    /// Of all gradients, unscaled, before clipping; not a number when skipped.
    pub gradient_norm: f64,
    /// What the norm is clipped by.
    pub clip_factor: f64,
    /// Multiplies gradients.
    pub gradient_scale: f32,
    /// That the step was divided by.
    pub loss_scale: f32,
    /// 1 when optimizers are to change nothing, else 0.
    pub skipped: i64,
    /// The mark of the first overflow; 0 = none.
    pub overflow: u64,
    /// The largest sum that a search has met.
    pub largest: u64,
    /// The rank of the first overflow.
    pub overflow_rank: u32,
    /// 0.
    pub padding: u32,
    /// Whether the first overflow is to be searched for.
    pub search: u32,
    /// Whether the step overflowed at the smallest loss scale.
    pub collapsed: u32,
}

impl Control {
    /// 64-bit words of a control block.
    pub const WORDS: usize = size_of::<Control>() / 8;
    /// The word [`Control::skipped`].
    pub const SKIPPED_WORD: usize = std::mem::offset_of!(Control, skipped) / 8;
    /// The word [`Control::overflow`]; the next is [`Control::largest`].
    pub const OVERFLOW_WORD: usize = std::mem::offset_of!(Control, overflow) / 8;

    /// The control block in memory that the host reads.
    pub(crate) fn read(control: &View<'_>) -> Control {
        // SAFETY: the operation's check required as many contiguous words.
        unsafe { control.ptr::<i64>().cast::<Control>().read() }
    }

    pub(crate) fn write(self, control: &View<'_>) {
        // SAFETY: as in `read`, and writable.
        unsafe { control.ptr::<i64>().cast::<Control>().write(self) }
    }
}

/// Requires a control block.
pub(crate) fn check_control(control: &View<'_>) -> Result<(), Invalid> {
    control.expect_dtype("control", &[DType::I64])?;
    control.expect_shape("control", &[Control::WORDS], "a control block")?;
    control.expect_contiguous("control")
}

/// The mark of an overflow: the earlier by micro-batch, then parameter, the larger. Never 0.
pub fn overflow_mark(micro: u32, parameter: u32) -> u64 {
    u64::MAX - (u64::from(micro) << 32 | u64::from(parameter))
}

/// (micro-batch, parameter) of a mark; none of 0.
pub fn overflow_of(mark: u64) -> Option<(u32, u32)> {
    let key = u64::MAX - mark;
    (mark != 0).then_some(((key >> 32) as u32, key as u32))
}

/// The number of steps taken, set anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// Which: 1, 2, …; 0 is none.
    pub number: u64,
    /// Steps taken.
    pub step: u64,
}

/// One call; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct StepControl<'a> {
    /// Accumulator of the sum of squares.
    pub square_sum: View<'a>,
    /// Record of overflows of each rank.
    pub overflow: View<'a>,
    /// The scaler whose scale divides gradients.
    pub loss_scale_state: Option<View<'a>>,
    /// Its smallest scale.
    pub minimum_loss_scale: f32,
    /// Divides gradients where there is no scaler; finite and more than 0.
    pub loss_scale: f32,
    /// Multiplies gradients; finite and at least 0.
    pub gradient_scale: f32,
    /// Largest norm; 0 = no clipping.
    pub max_norm: f32,
    /// The last restart.
    pub restart: Restart,
    /// The control block.
    pub control: View<'a>,
}

impl Op for StepControl<'_> {
    const NAME: &'static str = "step_control";

    views!(square_sum, overflow, control; loss_scale_state);

    fn check(&self) -> Result<(), Invalid> {
        check_accumulator("square_sum", &self.square_sum)?;
        self.overflow.expect_dtype("overflow", &[DType::I64])?;
        self.overflow.expect_ndim("overflow", 1, 1)?;
        self.overflow.expect_contiguous("overflow")?;
        if self.overflow.numel() == 0 {
            return Err(Invalid::new("overflow", "must have a mark for each rank".to_owned()));
        }
        if let Some(state) = &self.loss_scale_state {
            loss_scale::check_state("loss_scale_state", state)?;
        }
        for (name, value) in [("gradient_scale", self.gradient_scale), ("max_norm", self.max_norm)] {
            super::optimizer::expect_not_negative(name, value)?;
        }
        if !(self.loss_scale.is_finite() && self.loss_scale > 0.0) {
            return Err(Invalid::new("loss_scale", format!("{} must be finite and more than 0", self.loss_scale)));
        }
        check_control(&self.control)?;
        let others = [
            ("square_sum", Some(self.square_sum)),
            ("overflow", Some(self.overflow)),
            ("loss_scale_state", self.loss_scale_state),
        ];
        self.control.expect_apart_from("control", &others)
    }

    fn cpu(&self, _: &Cpu<'_>) {
        cpu::run(self);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}

impl StepControl<'_> {
    /// The scaler's state in memory that the host reads.
    fn loss_scale_state(&self) -> Option<LossScaleState> {
        self.loss_scale_state.as_ref().map(LossScaleState::read)
    }
}
