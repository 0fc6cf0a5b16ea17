//! The step: micro-batches of gradients, and what becomes of them.
//!
//! With G the accumulated gradients, summed over the ranks, and u = gradient_scale / (loss_scale ranks):
//!
//! ```text
//! norm = u sqrt(sum of G^2)                      exact sum, then f64
//! clip = min(1, max_norm / (norm + 1e-6))        1 without clipping
//! the optimizer of each group runs on G (u clip), u clip rounded once to f32
//! ```
//!
//! When a gradient is not finite, or is not once it is unscaled and clipped, the update is skipped.
//!
//! The device decides, in memory of its own (`decision.rs`): the host enqueues the same operations whatever becomes of
//! the step, and reads figures when it asks for them. So a step may be captured into a graph, and replayed.

use super::group::{Group, Rates};
use super::{Inner, State};
use crate::comm::{Named, Reduction};
use crate::device::DeviceKind;
use crate::error::{Error, Result, Status};
use crate::event::Event;
use crate::log::LogLevel;
use crate::precision::Scaler;
use crate::stream::{Queue, Stream};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::choose_overflow::ChooseOverflow;
use scalert_kernels::ops::exact_sum::ExactSum;
use scalert_kernels::ops::fill::Fill;
use scalert_kernels::ops::first_overflow::FirstOverflow;
use scalert_kernels::ops::step_control::{Control, StepControl, overflow_of};
use scalert_kernels::view::View;

/// How a step is taken. 0 is always the default.
#[derive(Clone, Copy, Default)]
pub struct StepDesc<'a> {
    /// Learning rate, which groups scale.
    pub learning_rate: f32,
    /// Clips the global norm; 0 = no clipping.
    pub max_norm: f32,
    /// Multiplies the accumulated gradients, the mean over the ranks, e.g. 1 / micro-batches; 0 = 1.
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

/// What is known of the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No step has been taken.
    None,
    /// The device has been told to take it.
    Enqueued,
    /// The host has seen its figures, and logged them.
    Seen,
}

/// A step's numbers, checked.
struct Figures {
    learning_rate: f32,
    max_norm: f32,
    gradient_scale: f32,
    /// 1 with a scaler.
    loss_scale: f32,
}

impl Figures {
    /// `scales` are the smallest and the largest that a scaler may have.
    fn new(desc: &StepDesc<'_>, scales: Option<[f32; 2]>, world: u32) -> Result<Figures> {
        let require = |holds: bool, argument: &str, value: f32, must: &str| {
            if holds { Ok(()) } else { Err(Error::invalid(argument, format!("{value} must be {must}"))) }
        };
        let at_least_zero =
            |argument, value: f32| require(value.is_finite() && value >= 0.0, argument, value, "finite and at least 0");
        at_least_zero("learning_rate", desc.learning_rate)?;
        at_least_zero("max_norm", desc.max_norm)?;
        at_least_zero("gradient_scale", desc.gradient_scale)?;
        at_least_zero("loss_scale", desc.loss_scale)?;
        require(scales.is_none() || desc.loss_scale == 0.0, "loss_scale", desc.loss_scale, "0 with a scaler")?;
        let or_one = |value: f32| if value == 0.0 { 1.0 } else { value };
        let (gradient_scale, loss_scale) = (or_one(desc.gradient_scale), or_one(desc.loss_scale));
        for scale in scales.unwrap_or([loss_scale; 2]) {
            let unscale = (f64::from(gradient_scale) / (f64::from(scale) * f64::from(world))) as f32;
            let over = if world == 1 { String::new() } else { format!(" and {world} ranks") };
            let must = format!("such that dividing it by {scale}{over} fits f32");
            require(unscale.is_finite() && unscale > 0.0, "gradient_scale", gradient_scale, &must)?;
        }
        Ok(Figures { learning_rate: desc.learning_rate, max_norm: desc.max_norm, gradient_scale, loss_scale })
    }
}

impl Inner {
    /// Adds the squares of this rank's share of a group's gradients to the accumulator.
    fn square_sum<'a>(&self, group: &'a Group) -> ExactSum<'a> {
        ExactSum {
            x: group.gradients(group.shards().own.clone()),
            square: true,
            accumulator: self.decision().square_sum(),
        }
    }

    /// Looks for the parameter to blame in this rank's share of a group, when the device asks for it.
    fn search(&self, group: usize) -> FirstOverflow<'_> {
        let decision = self.decision();
        FirstOverflow {
            gradient: self.groups[group].gradients(self.groups[group].shards().own.clone()),
            ranges: decision.ranges(group),
            micro: self.machine.micros().saturating_sub(1),
            control: decision.control(),
        }
    }

    /// Clears what an earlier step left in the decision's memory, before the first use in this step.
    pub(super) fn clear(&mut self, queue: &mut Queue<'_>) -> Result<()> {
        if !self.cleared {
            self.decision().clear(queue)?;
            self.cleared = true;
        }
        Ok(())
    }
}

/// The figures that a control block has.
fn result_of(control: &Control) -> StepResult {
    let skipped = control.skipped != 0;
    let overflow = overflow_of(control.overflow).filter(|_| skipped);
    StepResult {
        step: control.step,
        gradient_norm: control.gradient_norm,
        clip_factor: control.clip_factor,
        loss_scale: control.loss_scale,
        skipped,
        overflow_parameter: overflow.map(|(_, parameter)| parameter),
        overflow_rank: overflow.map(|_| control.overflow_rank),
        overflow_micro: overflow.map(|(micro, _)| micro),
    }
}

impl State {
    /// Begins a step.
    pub fn begin_step(&self) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_change().map_err(|r| inner.refuse(r))?;
        inner.machine.begin_step();
        inner.exchange.forecast.begin();
        inner.cleared = false;
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
    /// completes, `gradient` may be used again. All ranks give the gradients of a micro-batch in the same order.
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
        inner.take_gradient(&mut queue, i, gradient)?;
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
        if let Some(bucket) = inner.exchange.bucket_mut() {
            bucket.clear();
        }
        inner.machine.end_step();
        Ok(())
    }

    /// Unscales, clips by the exact global norm over all parameters, and updates master weights, moments and weights.
    /// When a gradient is not finite the update is skipped: nothing changes but the scaler. No parameter may be
    /// acquired. Without any micro-batch the gradients are zero. The device decides: nothing is waited for.
    pub fn step(&self, stream: &Stream, desc: &StepDesc<'_>) -> Result<()> {
        let mut inner = self.take()?;
        inner.machine.can_step().map_err(|r| inner.refuse(r))?;
        let mut queue = self.begin(stream)?;
        let scaler = match desc.scaler {
            Some(scaler) if !scaler.runtime().is(&self.runtime) => {
                return Err(Error::invalid("scaler", "must belong to the runtime of the state"));
            }
            Some(scaler) => Some(scaler.begin()?),
            None => None,
        };
        let figures = Figures::new(desc, scaler.as_ref().map(|s| s.range()), inner.sharding.world)?;
        let decision = inner.decision();
        let decide = StepControl {
            square_sum: decision.square_sum(),
            overflow: decision.marks(),
            loss_scale_state: scaler.as_ref().map(|s| s.state()),
            minimum_loss_scale: scaler.as_ref().map_or(0.0, |s| s.range()[0]),
            loss_scale: figures.loss_scale,
            gradient_scale: figures.gradient_scale,
            max_norm: figures.max_norm,
            restart: inner.restart,
            control: decision.control(),
        };
        let update = scaler.as_ref().map(|s| s.update(decision.skipped()));
        let rates = Rates { learning_rate: figures.learning_rate, control: Some(decision.control()) };

        // All that can be refused comes before all that changes something, and before what takes a workspace.
        let zero = |group: &Group| Fill { value: 0.0, y: group.gradients(group.shards().gradients()) };
        let choose = inner.ranks().map(|_| ChooseOverflow { found: decision.all_found(), control: decision.control() });
        for (_, group) in inner.trained() {
            group.update(&rates).prepare(&mut queue)?;
            queue.prepare(&zero(group))?;
        }
        queue.prepare(&decide)?;
        choose.iter().try_for_each(|op| queue.prepare(op))?;
        update.iter().try_for_each(|op| queue.prepare(op))?;
        for (g, group) in inner.trained() {
            queue.prepare(&inner.square_sum(group))?;
            queue.prepare(&inner.search(g))?;
        }

        inner.clear(&mut queue)?;
        inner.reduce_all(&mut queue)?;
        // After that: a job of a step that was abandoned may have been under way.
        if inner.machine.micros() == 0 {
            inner.trained().try_for_each(|(_, group)| queue.run(&zero(group)))?;
        }
        inner.trained().try_for_each(|(_, group)| queue.run(&inner.square_sum(group)))?;
        let decision = inner.decision();
        if let Some(ranks) = inner.ranks() {
            // Ranks that step differently would part without a sign.
            let Figures { learning_rate, max_norm, gradient_scale, .. } = figures;
            let scale = if scaler.is_some() { "scaled".to_owned() } else { figures.loss_scale.to_string() };
            let _named = Named::new(ranks, &format!("step {learning_rate} {max_norm} {gradient_scale} {scale}"))?;
            ranks.all_reduce(&mut queue, decision.square_sum(), Reduction::Sum)?;
            ranks.all_gather(&mut queue, decision.overflow(), decision.marks())?;
        }
        queue.run(&decide)?;
        inner.trained().try_for_each(|(g, _)| queue.run(&inner.search(g)))?;
        if let (Some(ranks), Some(choose)) = (inner.ranks(), &choose) {
            ranks.all_gather(&mut queue, decision.found(), decision.all_found())?;
            queue.run(choose)?;
        }
        inner.trained().try_for_each(|(_, group)| group.update(&rates).run(&mut queue))?;
        inner.share_weights(&mut queue)?;
        update.iter().try_for_each(|op| queue.run(op))?;
        inner.decision().enqueue_figures(&mut queue)?;
        if let Some(scaler) = &scaler {
            scaler.enqueue_report(&mut queue)?;
        }
        inner.outcome = Outcome::Enqueued;
        inner.machine.end_step();
        // Where nothing has to be waited for, the log says so now.
        if self.runtime.device() == DeviceKind::Cpu {
            self.see(&mut inner)?;
        }
        Ok(())
    }

    /// Waits for the last step's decision, and logs it once.
    fn see(&self, inner: &mut Inner) -> Result<Control> {
        let control = inner.decision().figures_wait()?;
        if inner.outcome == Outcome::Enqueued
            && let Some((micro, parameter)) = overflow_of(control.overflow)
        {
            self.runtime.log().write(LogLevel::Info, || {
                let name = inner.parameters[parameter as usize].name();
                let rank =
                    inner.comm.as_ref().map(|_| format!(" of rank {}", control.overflow_rank)).unwrap_or_default();
                format!("step skipped: the gradient of '{name}' is not finite in micro-batch {micro}{rank}")
            });
        }
        inner.outcome = Outcome::Seen;
        Ok(control)
    }

    /// Waits for the figures of the last step. The second value is `LOSS_SCALE_COLLAPSED`, naming the first bad
    /// parameter, when the step overflowed at the scaler's minimum. Of steps in a graph, they are those of the last that
    /// the host has waited for.
    pub fn step_result_wait(&self) -> Result<(StepResult, Result<()>)> {
        let mut inner = self.take()?;
        if inner.outcome == Outcome::None {
            return Err(Error::precondition("no step has been taken"));
        }
        let control = self.see(&mut inner)?;
        let result = result_of(&control);
        let verdict = match (control.collapsed != 0, result.overflow_parameter, result.overflow_micro) {
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
        Ok((result, verdict))
    }
}
