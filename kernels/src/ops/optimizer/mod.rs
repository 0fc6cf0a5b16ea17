//! What the optimizers share: the formats of their state, the checks of their arguments, and one streaming pass over
//! them.
//!
//! An update reads its state into f32, computes there, and stores it: an optimizer is one rule of arithmetic, whatever
//! the formats. State that is all f32 is streamed vector by vector; other formats are updated in blocks of 256
//! elements, in which no value is stored and read again outside the first-level cache.
//!
//! | format | bytes of an element | stored |
//! |---|---|---|
//! | [`Master::F32`] | 4, and the weight's | the weight to nearest: bf16 with ties away from zero, f16 with ties to even |
//! | [`Master::Split16`] | 4 with the weight | exactly: the bits that [`Master::F32`] trains ([`super::split16`]) |
//! | [`Master::Absent`] | the weight's | the weight stochastically, as [`super::cast`] does |
//! | [`Moment::Plain`] | 4 or 2 | f32 exactly, bf16 stochastically |
//! | [`Moment::Int8`] | 1 + 1/64 | [`crate::dynamic_map`]: the first moment with the signed, the second with the unsigned map |
//!
//! Blocks are counted from the first element, so a shard begins at a multiple of 256.

mod blocks;
pub(super) mod cuda;
mod formats;

pub(super) use formats::Name;
pub use formats::{Master, Moment, Random};

use crate::backend::cpu::elementwise::{Elements, Map, elementwise};
use crate::backend::cpu::{Bf16Away, Cpu, Element, Simd};
use crate::dtype::{DType, f16};
use crate::ops::step_control::{Control, check_control};
use crate::view::{Invalid, View};
use crate::with_float;

/// Requires a finite value of at least 0.
pub(super) fn expect_not_negative(argument: &'static str, value: f32) -> Result<(), Invalid> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Invalid::new(argument, format!("{value} must be finite and at least 0")))
}

/// Requires a value in \[0, 1).
pub(super) fn expect_below_one(argument: &'static str, value: f32) -> Result<(), Invalid> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(argument, format!("{value} must be at least 0 and below 1")))
}

/// The tensors of one update with `N` moments.
pub(super) struct Tensors<'a, const N: usize> {
    pub(super) gradient: View<'a>,
    pub(super) gradient_scale: f32,
    pub(super) master: Master<'a>,
    pub(super) moments: [(Name, Moment<'a>); N],
    pub(super) random: Option<Random>,
    pub(super) control: Option<View<'a>>,
}

/// What the control block in memory that the host reads says of this step.
pub(super) fn decided(control: &View<'_>) -> Decision {
    let control = Control::read(control);
    if control.skipped != 0 {
        return Decision::Skip;
    }
    Decision::Take { gradient_scale: control.gradient_scale, step: control.step }
}

/// Whether an update is done, and with what.
pub(super) enum Decision {
    Skip,
    Take { gradient_scale: f32, step: u64 },
}

/// The random words of this step.
pub(super) fn at_step(random: Option<Random>, step: u64) -> Option<Random> {
    random.map(|random| Random { step, ..random })
}

impl<'a, const N: usize> Tensors<'a, N> {
    /// Calls `visit` with each tensor and its name.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, View<'a>)) {
        visit("gradient", self.gradient);
        self.visit_written(visit);
        self.control.into_iter().for_each(|control| visit("control", control));
    }

    fn visit_written(&self, visit: &mut dyn FnMut(&'static str, View<'a>)) {
        self.master.visit(visit);
        for (name, moment) in &self.moments {
            visit(name.moment, moment.elements());
            moment.absmax().into_iter().for_each(|absmax| visit(name.absmax, absmax));
        }
    }

    /// Requires dtypes, one shape, contiguous rows, and no two tensors in the same memory.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.gradient.expect_dtype("gradient", &DType::FLOATS)?;
        self.gradient.expect_rows("gradient")?;
        if !self.gradient_scale.is_finite() {
            return Err(Invalid::new("gradient_scale", format!("{} must be finite", self.gradient_scale)));
        }
        formats::check(self.gradient.numel(), &self.master, &self.moments, self.random.as_ref())?;
        let plain = formats::is_plain(&self.master, &self.moments);
        if !plain {
            self.gradient.expect_contiguous("gradient")?;
        }
        let mut written = Vec::new();
        self.visit_written(&mut |name, view| written.push((name, view)));
        for (i, (name, view)) in written.iter().enumerate() {
            let is_absmax = self.moments.iter().any(|(moment, _)| moment.absmax == *name);
            if !is_absmax {
                view.expect_shape(name, self.gradient.shape(), "the shape of gradient")?;
            }
            view.expect_writable_rows(name)?;
            if !plain {
                view.expect_contiguous(name)?;
            }
            view.expect_apart(name, &self.gradient, "gradient")?;
            for (other, apart) in &written[..i] {
                view.expect_apart(name, apart, other)?;
            }
        }
        if let Some(control) = &self.control {
            check_control(control)?;
            control.expect_apart("control", &self.gradient, "gradient")?;
            written.iter().try_for_each(|(name, view)| control.expect_apart("control", view, name))?;
        }
        Ok(())
    }

    /// The tensors where the master and all moments are f32: master, moments, and the weight, if there is one.
    pub(super) fn plain(&self) -> Option<(View<'a>, [View<'a>; N], Option<View<'a>>)> {
        match self.master.resolved() {
            Master::F32 { master, weight } if formats::is_plain(&self.master, &self.moments) => {
                Some((master, self.moments.each_ref().map(|(_, moment)| moment.elements()), weight))
            }
            _ => None,
        }
    }
}

/// The arithmetic of an optimizer with `N` moments: every rounding of it, the same at every level.
pub(super) trait Rule<const N: usize>: Send + Sync {
    /// The new master and moments; `gradient` is already scaled.
    fn update<S: Simd>(&self, s: S, gradient: S::F, master: S::F, moments: [S::F; N]) -> (S::F, [S::F; N]);
}

/// Scales the gradient and updates; the last output, if there is one more, is the weight.
struct Step<R> {
    rule: R,
    gradient_scale: f32,
}

macro_rules! step {
    ($(#[$doc:meta])* $name:ident, $n:literal, $($moment:ident $t:ty),*) => {
        impl<G: Element, R: Rule<$n>> Map<(G, f32, $($t,)*), (f32, $($t,)*)> for Step<R> {
            #[inline(always)]
            fn map<S: Simd>(
                &self,
                s: S,
                (gradient, master, $($moment,)*): <(G, f32, $($t,)*) as Elements>::Vectors<S>,
            ) -> <(f32, $($t,)*) as Elements>::Vectors<S> {
                let gradient = s.mul(gradient, s.splat(self.gradient_scale));
                let (master, [$($moment,)*]) = self.rule.update(s, gradient, master, [$($moment,)*]);
                (master, $($moment,)*)
            }
        }

        impl<G: Element, W: Element, R: Rule<$n>> Map<(G, f32, $($t,)*), (f32, $($t,)* W)> for Step<R> {
            #[inline(always)]
            fn map<S: Simd>(
                &self,
                s: S,
                (gradient, master, $($moment,)*): <(G, f32, $($t,)*) as Elements>::Vectors<S>,
            ) -> <(f32, $($t,)* W) as Elements>::Vectors<S> {
                let gradient = s.mul(gradient, s.splat(self.gradient_scale));
                let (master, [$($moment,)*]) = self.rule.update(s, gradient, master, [$($moment,)*]);
                (master, $($moment,)* master)
            }
        }

        $(#[$doc])*
        pub(super) fn $name(cpu: &Cpu<'_>, tensors: &Tensors<'_, $n>, rule: impl Rule<$n>) {
            let Some((master, [$($moment,)*], weight)) = tensors.plain() else {
                return blocks::run(cpu, tensors, &rule);
            };
            let Tensors { gradient, gradient_scale, .. } = *tensors;
            let step = Step { rule, gradient_scale };
            let inputs = &[gradient, master, $($moment),*];
            with_float!(gradient.dtype(), G => match weight {
                None => elementwise::<(G, f32, $($t,)*), (f32, $($t,)*)>(cpu, inputs, &inputs[1..], step),
                Some(weight) => {
                    let outputs = &[master, $($moment,)* weight];
                    match weight.dtype() {
                        DType::BF16 => {
                            elementwise::<(G, f32, $($t,)*), (f32, $($t,)* Bf16Away)>(cpu, inputs, outputs, step);
                        }
                        DType::F16 => elementwise::<(G, f32, $($t,)*), (f32, $($t,)* f16)>(cpu, inputs, outputs, step),
                        _ => elementwise::<(G, f32, $($t,)*), (f32, $($t,)* f32)>(cpu, inputs, outputs, step),
                    }
                }
            });
        }
    };
}

step!(
    /// One pass of an optimizer without moments.
    step0, 0,
);
step!(
    /// One pass of an optimizer with one moment.
    step1, 1, moment f32
);
step!(
    /// One pass of an optimizer with two moments.
    step2, 2, moment1 f32, moment2 f32
);
