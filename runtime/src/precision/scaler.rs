//! The dynamic loss scale (Micikevicius et al. 2018, "Mixed Precision Training").
//!
//! The scale s lives on the device. After each step:
//! - finite: finite_steps += 1; when that reaches growth_interval, s = min(s growth_factor, maximum) and it starts over;
//! - overflow: finite_steps = 0; from the hysteresis-th overflow in a row on, s = max(s backoff_factor, minimum). An
//!   overflow with s = minimum is a collapse: no scale is small enough.

use crate::error::{Error, Result};
use crate::exclusive::Exclusive;
use crate::memory::{Block, Purpose, Tier};
use crate::runtime::Runtime;
use crate::stream::Stream;
use scalert_kernels::dtype::DType;
use scalert_kernels::view::View;
use std::sync::MutexGuard;

/// How a scaler is made; 0 is always the default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScalerDesc {
    /// 0 = 65536.
    pub initial_scale: f32,
    /// More than 1; 0 = 2.
    pub growth_factor: f32,
    /// Between 0 and 1; 0 = 0.5.
    pub backoff_factor: f32,
    /// Smallest scale, a normal f32, so that dividing by it fits f32; 0 = 1.
    pub minimum: f32,
    /// Largest scale; 0 = 2^24.
    pub maximum: f32,
    /// Finite steps before the scale grows; 0 = 2000.
    pub growth_interval: u32,
    /// Overflows in a row before it backs off; 0 = 1.
    pub hysteresis: u32,
}

/// What a scaler has come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalerReport {
    /// The current scale.
    pub scale: f32,
    /// Steps that overflowed, in all.
    pub overflows: u64,
    /// Finite steps since the last overflow or growth.
    pub finite_steps: u32,
    /// Whether the last update was an overflow at the minimum.
    pub collapsed: bool,
}

/// The dynamic loss scale of f16 training, on the device.
pub struct Scaler {
    desc: ScalerDesc,
    counters: Exclusive<Counters>,
    scale: Block,
    runtime: Runtime,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    overflows: u64,
    finite_steps: u32,
    overflows_in_a_row: u32,
    collapsed: bool,
}

fn or(value: f32, default: f32) -> f32 {
    if value == 0.0 { default } else { value }
}

impl Scaler {
    /// Makes a scaler.
    pub fn new(runtime: &Runtime, desc: &ScalerDesc) -> Result<Scaler> {
        let desc = ScalerDesc {
            initial_scale: or(desc.initial_scale, 65536.0),
            growth_factor: or(desc.growth_factor, 2.0),
            backoff_factor: or(desc.backoff_factor, 0.5),
            minimum: or(desc.minimum, 1.0),
            maximum: or(desc.maximum, 16_777_216.0),
            growth_interval: if desc.growth_interval == 0 { 2000 } else { desc.growth_interval },
            hysteresis: desc.hysteresis.max(1),
        };
        let require = |holds: bool, argument: &str, value: f32, must: &str| {
            if holds { Ok(()) } else { Err(Error::invalid(argument, format!("{value} must be {must}"))) }
        };
        let ScalerDesc { initial_scale, growth_factor, backoff_factor, minimum, maximum, .. } = desc;
        require(growth_factor > 1.0 && growth_factor.is_finite(), "growth_factor", growth_factor, "more than 1")?;
        require(backoff_factor > 0.0 && backoff_factor < 1.0, "backoff_factor", backoff_factor, "between 0 and 1")?;
        require(
            minimum >= f32::MIN_POSITIVE && minimum.is_finite(),
            "minimum",
            minimum,
            &format!("finite and at least {:e}", f32::MIN_POSITIVE),
        )?;
        require(
            maximum >= minimum && maximum.is_finite(),
            "maximum",
            maximum,
            &format!("finite and at least the minimum, {minimum}"),
        )?;
        require(
            (minimum..=maximum).contains(&initial_scale),
            "initial_scale",
            initial_scale,
            &format!("{minimum} to {maximum}"),
        )?;
        let scale = Block::new(runtime.memory(), Tier::Device, Purpose::Other, size_of::<f32>() as u64, true)?;
        let scaler =
            Scaler { desc, counters: Exclusive::new("scaler", Counters::default()), scale, runtime: runtime.clone() };
        // SAFETY: the block is one f32, and no one else knows it yet.
        unsafe { scaler.scale.data().cast::<f32>().write(initial_scale) };
        Ok(scaler)
    }

    /// The current scale, f32 \[1\], on the device.
    pub fn scale(&self) -> View<'_> {
        // SAFETY: the block is one f32 that lives as long as the scaler. It is written by updates alone, which the
        // host orders against the operations that read it, as everything on a stream.
        unsafe { View::new("scale", self.scale.data().as_ptr(), DType::F32, &[1], &[1]) }.expect("a valid view")
    }

    /// Updates the scale after a step: overflow when `nonfinite`, i64 with one element, is not 0.
    pub fn update(&self, stream: &Stream, nonfinite: View<'_>) -> Result<()> {
        nonfinite.expect_dtype("nonfinite", &[DType::I64])?;
        if nonfinite.numel() != 1 {
            return Err(Error::invalid("nonfinite", format!("{:?} must have one element", nonfinite.shape())));
        }
        let mut lease = self.begin()?;
        stream.wait()?;
        // SAFETY: the view is one i64, and the work that wrote it is done.
        lease.update(unsafe { nonfinite.ptr::<i64>().read() } != 0);
        Ok(())
    }

    /// Waits for the last update and reads it.
    pub fn read_wait(&self) -> Result<ScalerReport> {
        Ok(self.begin()?.report())
    }

    /// Takes the scaler for one call.
    pub(crate) fn begin(&self) -> Result<Lease<'_>> {
        Ok(Lease { counters: self.counters.take()?, scaler: self })
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// A scaler taken by one call.
pub(crate) struct Lease<'a> {
    counters: MutexGuard<'a, Counters>,
    scaler: &'a Scaler,
}

impl Lease<'_> {
    /// The current scale.
    pub(crate) fn scale(&self) -> f32 {
        // SAFETY: the block is one f32, which is written under the lease alone.
        unsafe { self.scaler.scale.data().cast::<f32>().read() }
    }

    pub(crate) fn report(&self) -> ScalerReport {
        let Counters { overflows, finite_steps, collapsed, .. } = *self.counters;
        ScalerReport { scale: self.scale(), overflows, finite_steps, collapsed }
    }

    /// Goes on by one step.
    pub(crate) fn update(&mut self, overflow: bool) {
        let desc = &self.scaler.desc;
        let mut scale = self.scale();
        let c = &mut *self.counters;
        c.collapsed = overflow && scale <= desc.minimum;
        if overflow {
            c.overflows += 1;
            c.finite_steps = 0;
            c.overflows_in_a_row = c.overflows_in_a_row.saturating_add(1);
            if c.overflows_in_a_row >= desc.hysteresis {
                scale = (scale * desc.backoff_factor).max(desc.minimum);
            }
        } else {
            c.overflows_in_a_row = 0;
            c.finite_steps += 1;
            if c.finite_steps >= desc.growth_interval {
                c.finite_steps = 0;
                scale = (scale * desc.growth_factor).min(desc.maximum);
            }
        }
        // SAFETY: as in `scale`.
        unsafe { self.scaler.scale.data().cast::<f32>().write(scale) };
    }
}
