//! What the optimizers share: the checks of their arguments, and one streaming pass over them.

pub(super) mod cuda;

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
    pub(super) master: View<'a>,
    pub(super) moments: [(&'static str, View<'a>); N],
    pub(super) weight: Option<View<'a>>,
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

impl<const N: usize> Tensors<'_, N> {
    /// Requires dtypes, one shape, contiguous rows, and no two tensors in the same memory.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.gradient.expect_dtype("gradient", &DType::FLOATS)?;
        self.gradient.expect_rows("gradient")?;
        if !self.gradient_scale.is_finite() {
            return Err(Invalid::new("gradient_scale", format!("{} must be finite", self.gradient_scale)));
        }
        let state =
            std::iter::once(("master", &self.master)).chain(self.moments.iter().map(|(name, view)| (*name, view)));
        let written: Vec<(&'static str, &View<'_>)> =
            state.chain(self.weight.iter().map(|view| ("weight", view))).collect();
        for (i, (name, view)) in written.iter().enumerate() {
            let floats: &[DType] = if *name == "weight" { &DType::FLOATS } else { &[DType::F32] };
            view.expect_dtype(name, floats)?;
            view.expect_shape(name, self.gradient.shape(), "the shape of gradient")?;
            view.expect_writable_rows(name)?;
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
            let Tensors { gradient, gradient_scale, master, moments: [$((_, $moment),)*], weight, .. } = *tensors;
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
