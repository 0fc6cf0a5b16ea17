//! The dynamic loss scale after a step (Micikevicius et al. 2018, "Mixed Precision Training").
//!
//! | argument | shape | dtype | |
//! |---|---|---|---|
//! | nonfinite | one element | i64 | the step overflowed when it is not 0 |
//! | state | \[3\], contiguous | i64 | a [`LossScaleState`], updated |
//!
//! With s the scale:
//! - finite: finite_steps += 1; when that reaches growth_interval, s = min(s growth_factor, maximum) and it starts over;
//! - overflow: finite_steps = 0; from the hysteresis-th overflow in a row on, s = max(s backoff_factor, minimum). An
//!   overflow with s = minimum is a collapse: no scale is small enough.
//!
//! Products are rounded once to f32. Tolerance: none; the same bits on every device.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// A loss scale and what it depends on, in memory of the device. A new one has its scale, and zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossScaleState {
    /// The current scale.
    pub scale: f32,
    /// Finite steps since the last overflow or growth.
    pub finite_steps: u32,
    /// Steps that overflowed, in all.
    pub overflows: u64,
    /// Steps that overflowed since the last finite one.
    pub overflows_in_a_row: u32,
    /// Whether the last update was an overflow at the minimum: 1 or 0.
    pub collapsed: u32,
}

impl LossScaleState {
    /// 64-bit words of a state.
    pub const WORDS: usize = size_of::<LossScaleState>() / 8;

    /// The state in memory that the host reads.
    pub(crate) fn read(state: &View<'_>) -> LossScaleState {
        // SAFETY: the operation's check required as many contiguous words.
        unsafe { state.ptr::<i64>().cast::<LossScaleState>().read() }
    }
}

/// Requires a state.
pub(crate) fn check_state(argument: &'static str, state: &View<'_>) -> Result<(), Invalid> {
    state.expect_dtype(argument, &[DType::I64])?;
    state.expect_shape(argument, &[LossScaleState::WORDS], "a loss scale's state")?;
    state.expect_contiguous(argument)
}

/// One update; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct LossScale<'a> {
    /// More than 1.
    pub growth_factor: f32,
    /// Between 0 and 1.
    pub backoff_factor: f32,
    /// Smallest scale.
    pub minimum: f32,
    /// Largest scale.
    pub maximum: f32,
    /// Finite steps before the scale grows.
    pub growth_interval: u32,
    /// Overflows in a row before it backs off.
    pub hysteresis: u32,
    /// Whether the step overflowed.
    pub nonfinite: View<'a>,
    /// The state.
    pub state: View<'a>,
}

impl Op for LossScale<'_> {
    const NAME: &'static str = "loss_scale";

    views!(nonfinite, state);

    fn check(&self) -> Result<(), Invalid> {
        let require = |holds: bool, argument, value: f32, must: &str| {
            if holds { Ok(()) } else { Err(Invalid::new(argument, format!("{value} must be {must}"))) }
        };
        let LossScale { growth_factor, backoff_factor, minimum, maximum, .. } = *self;
        require(growth_factor > 1.0 && growth_factor.is_finite(), "growth_factor", growth_factor, "more than 1")?;
        require(backoff_factor > 0.0 && backoff_factor < 1.0, "backoff_factor", backoff_factor, "between 0 and 1")?;
        require(minimum > 0.0 && minimum.is_finite(), "minimum", minimum, "finite and more than 0")?;
        require(
            maximum >= minimum && maximum.is_finite(),
            "maximum",
            maximum,
            &format!("finite and at least the minimum, {minimum}"),
        )?;
        self.nonfinite.expect_dtype("nonfinite", &[DType::I64])?;
        if self.nonfinite.numel() != 1 {
            return Err(Invalid::new("nonfinite", format!("{:?} must have one element", self.nonfinite.shape())));
        }
        check_state("state", &self.state)?;
        self.state.expect_apart("state", &self.nonfinite, "nonfinite")
    }

    fn cpu(&self, _: &Cpu<'_>) {
        cpu::run(self);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
