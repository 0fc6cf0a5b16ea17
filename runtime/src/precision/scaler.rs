//! The dynamic loss scale (Micikevicius et al. 2018, "Mixed Precision Training").
//!
//! The scale lives on the device with all that it depends on; [`LossScale`] has the rules.

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exclusive::Exclusive;
use crate::memory::{Block, Purpose, Tier};
use crate::readback::Readback;
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::loss_scale::{LossScale, LossScaleState};
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
    report: Exclusive<Readback>,
    state: Block,
    runtime: Runtime,
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
        let bytes = size_of::<LossScaleState>() as u64;
        let block = |tier| Block::new(runtime.memory(), tier, Purpose::Other, bytes, true);
        let (state, report) = (block(Tier::Device)?, block(Readback::tier(runtime))?);
        let report = Readback::new(report, Event::new(runtime)?);
        let initial = LossScaleState { scale: initial_scale, ..Default::default() };
        // SAFETY: both blocks are of a state's size, and no one else knows them yet. The stream is waited for.
        unsafe {
            report.block().data().cast::<LossScaleState>().write(initial);
            let stream = Stream::new(runtime)?;
            let mut queue = stream.begin()?;
            queue.copy(state.data().as_ptr(), report.block().data().as_ptr(), state.bytes())?;
            queue.wait()?;
        }
        Ok(Scaler { desc, report: Exclusive::new("scaler", report), state, runtime: runtime.clone() })
    }

    /// The current scale, f32 \[1\], on the device.
    pub fn scale(&self) -> View<'_> {
        const _: () = assert!(std::mem::offset_of!(LossScaleState, scale) == 0);
        // SAFETY: the block begins with the scale and lives as long as the scaler. It is written by updates alone, which
        // the host orders against the operations that read it, as everything on a stream.
        unsafe { View::new("scale", self.state.data().as_ptr(), DType::F32, &[1], &[1]) }.expect("a valid view")
    }

    /// Updates the scale after a step, in stream order: overflow when `nonfinite`, i64 with one element, is not 0.
    pub fn update(&self, stream: &Stream, nonfinite: View<'_>) -> Result<()> {
        nonfinite.expect_dtype("nonfinite", &[DType::I64])?;
        if nonfinite.numel() != 1 {
            return Err(Error::invalid("nonfinite", format!("{:?} must have one element", nonfinite.shape())));
        }
        if !stream.runtime().is(&self.runtime) {
            return Err(Error::invalid("stream", "must belong to the runtime of the scaler"));
        }
        let lease = self.begin()?;
        let mut queue = stream.begin()?;
        let update = lease.update(nonfinite);
        queue.prepare(&update)?;
        queue.run(&update)?;
        lease.enqueue_report(&mut queue)
    }

    /// Waits for the last update and reads it. Of updates in a graph, the last that the host has waited for.
    pub fn read_wait(&self) -> Result<ScalerReport> {
        // SAFETY: `new` wrote a state, and copies of the state follow it.
        let state: LossScaleState = unsafe { self.begin()?.report.wait() }?;
        let LossScaleState { scale, overflows, finite_steps, collapsed, .. } = state;
        Ok(ScalerReport { scale, overflows, finite_steps, collapsed: collapsed != 0 })
    }

    /// Takes the scaler for one call.
    pub(crate) fn begin(&self) -> Result<Lease<'_>> {
        Ok(Lease { report: self.report.take()?, scaler: self })
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// A scaler taken by one call.
pub(crate) struct Lease<'a> {
    report: MutexGuard<'a, Readback>,
    scaler: &'a Scaler,
}

impl<'a> Lease<'a> {
    /// The smallest and the largest scale.
    pub(crate) fn range(&self) -> [f32; 2] {
        [self.scaler.desc.minimum, self.scaler.desc.maximum]
    }

    /// The state, a [`LossScaleState`].
    pub(crate) fn state(&self) -> View<'a> {
        let data = self.scaler.state.data().as_ptr();
        // SAFETY: the block is of a state's size, and lives as long as the scaler. Streams order those who use it.
        unsafe { View::new("state", data, DType::I64, &[LossScaleState::WORDS], &[1]) }.expect("a valid view")
    }

    /// What goes on by one step.
    pub(crate) fn update<'b>(&self, nonfinite: View<'b>) -> LossScale<'b>
    where
        'a: 'b,
    {
        let desc = &self.scaler.desc;
        LossScale {
            growth_factor: desc.growth_factor,
            backoff_factor: desc.backoff_factor,
            minimum: desc.minimum,
            maximum: desc.maximum,
            growth_interval: desc.growth_interval,
            hysteresis: desc.hysteresis,
            nonfinite,
            state: self.state(),
        }
    }

    /// Copies what updates have come to, for [`Scaler::read_wait`].
    pub(crate) fn enqueue_report(&self, queue: &mut Queue<'_>) -> Result<()> {
        self.report.enqueue(queue, &self.state())
    }
}
