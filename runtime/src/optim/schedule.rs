//! Learning-rate schedules.

use crate::error::{Error, Result};

/// The shapes of schedules. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ScheduleKind {
    /// The peak.
    #[default]
    Constant = 0,
    /// Half a cosine from peak to floor at total_steps (Loshchilov & Hutter 2017).
    Cosine = 1,
    /// A line from peak to floor at total_steps.
    Linear = 2,
    /// peak sqrt(max(warmup_steps, 1) / step), not below floor (Vaswani et al. 2017).
    InverseSquareRoot = 3,
    /// The peak, then a line to floor over the last decay_steps of total_steps (Hu et al. 2024).
    WarmupStableDecay = 4,
}

/// A learning rate for each step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Highest learning rate.
    pub peak: f32,
    /// Lowest learning rate after the warmup: 0 <= floor <= peak.
    pub floor: f32,
    /// Every kind first rises linearly: peak * step / warmup_steps.
    pub warmup_steps: u64,
    /// After these the rate stays at the floor; 0 = never, which COSINE, LINEAR and WARMUP_STABLE_DECAY refuse.
    pub total_steps: u64,
    /// Length of WARMUP_STABLE_DECAY's decay.
    pub decay_steps: u64,
}

impl Schedule {
    /// Checks that the figures fit together.
    pub fn check(&self) -> Result<()> {
        let Schedule { kind, peak, floor, warmup_steps, total_steps, decay_steps } = *self;
        if !(peak.is_finite() && peak >= 0.0) {
            return Err(Error::invalid("peak", format!("{peak} must be finite and at least 0")));
        }
        if !(0.0..=peak).contains(&floor) {
            return Err(Error::invalid("floor", format!("{floor} must be 0 to the peak, {peak}")));
        }
        let needs_total = matches!(kind, ScheduleKind::Cosine | ScheduleKind::Linear | ScheduleKind::WarmupStableDecay);
        if needs_total && total_steps == 0 {
            return Err(Error::invalid("total_steps", "0 must be more than 0, since a schedule of this kind ends"));
        }
        if total_steps > 0 && warmup_steps > total_steps {
            return Err(Error::invalid(
                "warmup_steps",
                format!("{warmup_steps} must be at most total_steps, {total_steps}"),
            ));
        }
        if kind == ScheduleKind::WarmupStableDecay && decay_steps > total_steps - warmup_steps {
            return Err(Error::invalid(
                "decay_steps",
                format!("{decay_steps} must be at most the {} steps after the warmup", total_steps - warmup_steps),
            ));
        }
        Ok(())
    }

    /// The learning rate of a step, computed in f64; the first step is 1, and 0 is taken as 1.
    pub fn learning_rate(&self, step: u64) -> Result<f32> {
        self.check()?;
        let Schedule { kind, warmup_steps, total_steps, decay_steps, .. } = *self;
        let (peak, floor) = (f64::from(self.peak), f64::from(self.floor));
        let step = step.max(1);
        if total_steps > 0 && step > total_steps {
            return Ok(self.floor);
        }
        if step <= warmup_steps {
            return Ok((peak * (step as f64 / warmup_steps as f64)) as f32);
        }
        // From 0 at step `begin` to 1 at total_steps; begin < step <= total_steps.
        let progress = |begin: u64| (step - begin) as f64 / (total_steps - begin) as f64;
        let rate = match kind {
            ScheduleKind::Constant => peak,
            ScheduleKind::Cosine => {
                let t = progress(warmup_steps);
                floor + (peak - floor) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
            }
            ScheduleKind::Linear => peak + (floor - peak) * progress(warmup_steps),
            ScheduleKind::InverseSquareRoot => (peak * (warmup_steps.max(1) as f64 / step as f64).sqrt()).max(floor),
            ScheduleKind::WarmupStableDecay => {
                let begin = total_steps - decay_steps;
                if step <= begin { peak } else { peak + (floor - peak) * progress(begin) }
            }
        };
        Ok(rate as f32)
    }
}
