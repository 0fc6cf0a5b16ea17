//! The step: micro-batches of gradients, and what becomes of them.
//!
//! With G the accumulated gradients and u = gradient_scale / loss_scale:
//!
//! ```text
//! norm = u sqrt(sum of G^2)                      exact sum, then f64
//! clip = min(1, max_norm / (norm + 1e-6))        1 without clipping
//! the optimizer of each group runs on G (u clip), u clip rounded once to f32
//! ```
//!
//! When a gradient is not finite, or is not once it is unscaled and clipped, the update is skipped.

use super::group::{Group, Rates};
use super::{Inner, State};
use crate::error::{Error, Result, Status};
use crate::event::Event;
use crate::log::LogLevel;
use crate::precision::Scaler;
use crate::stream::{Queue, Stream};
use scalert_kernels::dtype::DType;
use scalert_kernels::exact_sum::{Accumulator, WORDS};
use scalert_kernels::ops::accumulate::Accumulate;
use scalert_kernels::ops::exact_sum::ExactSum;
use scalert_kernels::ops::fill::Fill;
use scalert_kernels::view::View;

/// How a step is taken. 0 is always the default.
#[derive(Clone, Copy, Default)]
pub struct StepDesc<'a> {
    /// Learning rate, which groups scale.
    pub learning_rate: f32,
    /// Clips the global norm; 0 = no clipping.
    pub max_norm: f32,
    /// Multiplies the accumulated gradients, e.g. 1 / micro-batches; 0 = 1.
    pub gradient_scale: f32,
    /// Divides them; 0 = 1. With a scaler it must be 0.
    pub loss_scale: f32,
    /// Its scale divides them, and it is updated.
    pub scaler: Option<&'a Scaler>,
}

/// The figures of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Steps taken so far; a skipped step does not count.
    pub step: u64,
    /// Of all gradients, unscaled, before clipping; not a number when skipped.
    pub gradient_norm: f64,
    /// min(1, max_norm / (gradient_norm + 1e-6)); 1 without clipping and when skipped.
    pub clip_factor: f64,
    /// That this step was divided by.
    pub loss_scale: f32,
    /// Whether a gradient was not finite.
    pub skipped: bool,
    /// The first of them by micro-batch, then parameter.
    pub overflow_parameter: Option<u32>,
    /// Its rank.
    pub overflow_rank: Option<u32>,
    /// Its micro-batch.
    pub overflow_micro: Option<u32>,
}

/// What a step came to.
pub(super) struct Outcome {
    result: StepResult,
    /// Whether it overflowed at the scaler's minimum.
    collapsed: bool,
}

/// A step's numbers, checked.
struct Figures {
    learning_rate: f32,
    max_norm: f64,
    loss_scale: f32,
    /// gradient_scale / loss_scale.
    unscale: f64,
}

impl Figures {
    fn new(desc: &StepDesc<'_>, scale: Option<f32>) -> Result<Figures> {
        let require = |holds: bool, argument: &str, value: f32, must: &str| {
            if holds { Ok(()) } else { Err(Error::invalid(argument, format!("{value} must be {must}"))) }
        };
        let at_least_zero =
            |argument, value: f32| require(value.is_finite() && value >= 0.0, argument, value, "finite and at least 0");
        at_least_zero("learning_rate", desc.learning_rate)?;
        at_least_zero("max_norm", desc.max_norm)?;
        at_least_zero("gradient_scale", desc.gradient_scale)?;
        at_least_zero("loss_scale", desc.loss_scale)?;
        require(scale.is_none() || desc.loss_scale == 0.0, "loss_scale", desc.loss_scale, "0 with a scaler")?;
        let or_one = |value: f32| if value == 0.0 { 1.0 } else { value };
        let gradient_scale = or_one(desc.gradient_scale);
        let loss_scale = scale.unwrap_or(or_one(desc.loss_scale));
        let unscale = f64::from(gradient_scale) / f64::from(loss_scale);
        let fits = (unscale as f32).is_finite() && unscale as f32 > 0.0;
        require(fits, "gradient_scale", gradient_scale, &format!("such that dividing it by {loss_scale} fits f32"))?;
        Ok(Figures { learning_rate: desc.learning_rate, max_norm: f64::from(desc.max_norm), loss_scale, unscale })
    }

    fn clip_factor(&self, norm: f64) -> f64 {
        if self.max_norm == 0.0 { 1.0 } else { (self.max_norm / (norm + 1e-6)).min(1.0) }
    }
}

impl Inner {
    /// Adds the squares of `x` to the scratch's accumulator.
    fn square_sum<'a>(&'a self, x: View<'a>) -> ExactSum<'a> {
        ExactSum { x, square: true, accumulator: self.scratch(0, WORDS) }
    }

    /// The scratch's accumulator.
    fn accumulator(&self) -> *mut Accumulator {
        self.scratch(0, WORDS).data().cast()
    }

    /// The exact sum of squares over `views`, rounded once, and the number of elements that are not finite.
    fn sum_squares<'a>(
        &'a self,
        queue: &mut Queue<'_>,
        mut views: impl Iterator<Item = View<'a>>,
    ) -> Result<(f64, u64)> {
        // SAFETY: the scratch begins with an accumulator, which this call alone uses.
        unsafe { self.accumulator().write(Accumulator::ZERO) };
        views.try_for_each(|x| queue.run(&self.square_sum(x)))?;
        // SAFETY: as above, and the work that wrote it is done.
        let total = unsafe { self.accumulator().read() };
        Ok((total.sum(), total.nonfinite()))
    }

    /// The first parameter whose accumulated gradient is not finite; if all are, the one of the largest norm.
    fn first_overflow(&self, queue: &mut Queue<'_>) -> Result<u32> {
        let mut largest = (0, 0.0);
        for (i, parameter) in self.parameters.iter().enumerate() {
            let gradient = self.group_of(i).part(parameter, super::Part::Gradient).expect("every group has gradients");
            let (sum, nonfinite) = self.sum_squares(queue, std::iter::once(gradient))?;
            if nonfinite > 0 {
                return Ok(i as u32);
            }
            if sum > largest.1 {
                largest = (i as u32, sum);
            }
        }
        Ok(largest.0)
    }
}

impl State {
    /// Begins a step.
    pub fn begin_step(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_change().map_err(|r| inner.refuse(r))?;
        inner.machine.begin_step();
        inner.overflow = None;
        Ok(())
    }

    /// Begins a micro-batch.
    pub fn begin_micro(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_begin_micro().map_err(|r| inner.refuse(r))?;
        inner.machine.begin_micro();
        Ok(())
    }

    /// Adds the gradient of one parameter, a float tensor of its shape, to the accumulator in f32. Once `consumed`
    /// completes, `gradient` may be used again.
    pub fn gradient_ready(
        &self,
        stream: &Stream,
        parameter: u32,
        gradient: View<'_>,
        consumed: Option<&Event>,
    ) -> Result<()> {
        let mut inner = self.take()?;
        let i = inner.index(parameter)?;
        inner.machine.can_gradient(i).map_err(|r| inner.refuse(r))?;
        gradient.expect_dtype("gradient", &DType::FLOATS)?;
        gradient.expect_shape("gradient", &inner.parameters[i].info.shape, "the parameter's shape")?;
        gradient.expect_rows("gradient")?;
        let mut queue = self.begin(stream)?;
        let nonfinite = inner.scratch(WORDS, 1);
        let count = nonfinite.ptr::<i64>();
        let op = Accumulate {
            x: gradient,
            overwrite: inner.machine.micros() == 0,
            y: inner.group_of(i).part(&inner.parameters[i], super::Part::Gradient).expect("every group has gradients"),
            nonfinite,
            square_sum: None,
        };
        queue.prepare(&op)?;
        // SAFETY: the count is one i64 of the scratch, which this call alone uses.
        unsafe { count.write(0) };
        queue.run(&op)?;
        // SAFETY: as above, and the work that wrote it is done.
        if unsafe { count.read() } != 0 {
            let here = (inner.machine.micros(), parameter);
            inner.overflow = Some(inner.overflow.map_or(here, |first| first.min(here)));
        }
        if let Some(event) = consumed {
            event.record_in(&queue)?;
        }
        inner.machine.gradient(i);
        Ok(())
    }

    /// Ends a micro-batch. `FAILED_PRECONDITION` names the first parameter that has had no gradient; it may still be
    /// given.
    pub fn end_micro(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_end_micro().map_err(|r| inner.refuse(r))?;
        inner.machine.end_micro();
        Ok(())
    }

    /// Drops a begun step with its gradients.
    pub fn abandon_step(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_abandon().map_err(|r| inner.refuse(r))?;
        inner.machine.end_step();
        Ok(())
    }

    /// Unscales, clips by the exact global norm over all parameters, and updates master weights, moments and weights.
    /// When a gradient is not finite the update is skipped: nothing changes but the scaler. No parameter may be
    /// acquired. Without any micro-batch the gradients are zero.
    pub fn step(&self, stream: &Stream, desc: &StepDesc<'_>) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_step().map_err(|r| inner.refuse(r))?;
        let mut queue = self.begin(stream)?;
        let mut scaler = match desc.scaler {
            Some(scaler) if !scaler.runtime().is(&self.runtime) => {
                return Err(Error::invalid("scaler", "must belong to the runtime of the state"));
            }
            Some(scaler) => Some(scaler.begin()?),
            None => None,
        };
        let figures = Figures::new(desc, scaler.as_ref().map(|s| s.scale()))?;

        // All that can fail comes before all that changes something.
        let taken = inner.steps.saturating_add(1);
        let rates = |clip_factor: f64| Rates {
            learning_rate: figures.learning_rate,
            gradient_scale: (figures.unscale * clip_factor) as f32,
            step: taken,
        };
        for group in &inner.groups {
            group.update(&rates(1.0)).prepare(&mut queue)?;
            queue.prepare(&Fill { value: 0.0, y: group.gradients() })?;
        }
        // The sums alone need a workspace, all the same one.
        inner.groups.iter().try_for_each(|group| queue.prepare(&inner.square_sum(group.gradients())))?;

        if inner.machine.micros() == 0 {
            inner.groups.iter().try_for_each(|group| queue.run(&Fill { value: 0.0, y: group.gradients() }))?;
        }
        let mut result = StepResult {
            step: inner.steps,
            gradient_norm: f64::NAN,
            clip_factor: 1.0,
            loss_scale: figures.loss_scale,
            skipped: true,
            overflow_parameter: None,
            overflow_rank: None,
            overflow_micro: None,
        };
        let mut overflow = inner.overflow;
        if overflow.is_none() {
            let (sum, nonfinite) = inner.sum_squares(&mut queue, inner.groups.iter().map(Group::gradients))?;
            let norm = sum.sqrt() * figures.unscale;
            let clip_factor = figures.clip_factor(norm);
            // No element is larger than the norm: below the largest f32 none overflows when it is scaled.
            if nonfinite > 0 || norm * clip_factor > f64::from(f32::MAX) {
                overflow = Some((inner.machine.micros().saturating_sub(1), inner.first_overflow(&mut queue)?));
            } else {
                inner.groups.iter().try_for_each(|group| group.update(&rates(clip_factor)).run(&mut queue))?;
                inner.steps = taken;
                result = StepResult { step: taken, gradient_norm: norm, clip_factor, skipped: false, ..result };
            }
        }
        if let Some((micro, parameter)) = overflow {
            result.overflow_parameter = Some(parameter);
            result.overflow_rank = Some(0);
            result.overflow_micro = Some(micro);
            self.runtime.log().write(LogLevel::Info, || {
                let name = inner.parameters[parameter as usize].name();
                format!("step skipped: the gradient of '{name}' is not finite in micro-batch {micro}")
            });
        }
        let mut collapsed = false;
        if let Some(scaler) = &mut scaler {
            scaler.update(result.skipped);
            collapsed = scaler.report().collapsed;
        }
        inner.last = Some(Outcome { result, collapsed });
        inner.machine.end_step();
        Ok(())
    }

    /// Waits for the figures of the last step. The second value is `LOSS_SCALE_COLLAPSED`, naming the first bad
    /// parameter, when the step overflowed at the scaler's minimum.
    pub fn step_result_wait(&self) -> Result<(StepResult, Result<()>)> {
        let inner = self.take()?;
        let Some(Outcome { result, collapsed }) = &inner.last else {
            return Err(Error::precondition("no step has been taken"));
        };
        let verdict = match (collapsed, result.overflow_parameter, result.overflow_micro) {
            (true, Some(parameter), Some(micro)) => Err(Error::new(
                Status::LossScaleCollapsed,
                format!(
                    "gradients overflow at the smallest loss scale, {}; the first is that of parameter {parameter} \
                     '{}' in micro-batch {micro}",
                    result.loss_scale,
                    inner.parameters[parameter as usize].name()
                ),
            )),
            _ => Ok(()),
        };
        Ok((*result, verdict))
    }
}
