//! AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
//!
//! | argument | dtype | |
//! |---|---|---|
//! | gradient | f32, bf16 or f16 | read |
//! | master | a [`Master`]: f32 in one of three formats, and the weight | updated in place |
//! | moment1, moment2 | [`Moment`]s of one format | updated in place |
//! | control | i64 \[10\]; optional | read |
//!
//! All but control and scales have one shape of 0 to 5 dimensions and contiguous rows; if master or moments are not
//! f32, all are contiguous. None shares memory with another. Element by element, in f32 whatever the formats, where
//! each operation rounds once to nearest even f32, as written, and fma(a, b, c) = a b + c rounds once:
//!
//! ```text
//! g       = gradient * gradient_scale
//! moment1 = fma(beta1, moment1, (1 - beta1) * g)
//! moment2 = fma(beta2, moment2, (1 - beta2) * (g * g))
//! u       = moment1 / fma(sqrt(moment2), inverse_root, epsilon)
//! master  = master - fma(decay, master, rate * u)
//! weight  = master, rounded as its format says: bf16 to nearest with ties away from zero, f16 with ties to even
//! ```
//!
//! The constants ([`Constants`]) are computed once per call in f64 and then rounded to f32:
//! (1 - beta1), (1 - beta2), inverse_root = 1 / sqrt(bias_correction2), rate = learning_rate / bias_correction1,
//! decay = learning_rate * weight_decay. The decay is added to the update and not folded into master (1 - decay), whose
//! rounding would lose most of a small decay.
//!
//! Tolerance: none: the same bits at every level, for any number of threads and any division of the elements (which NaN
//! a NaN becomes is not specified). Zero elements do nothing.
//!
//! A bias correction is 1 - beta^t at step t = 1, 2, …, as [`bias_correction`] computes it. With a control block of
//! [`super::step_control`], the call's gradient_scale and bias corrections are not used: they are those of the step in
//! the block, and nothing is changed when the block says that the step is skipped.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use super::optimizer::{
    Decision, Master, Moment, Name, Random, Tensors, at_step, decided, expect_below_one, expect_not_negative,
};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::view::{Invalid, View};

/// One update; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct AdamW<'a> {
    /// Gradient of the loss.
    pub gradient: View<'a>,
    /// Multiplies the gradient: clip factor over loss scale.
    pub gradient_scale: f32,
    /// Learning rate, at least 0.
    pub learning_rate: f32,
    /// Decay of the first moment, in \[0, 1).
    pub beta1: f32,
    /// Decay of the second moment, in \[0, 1).
    pub beta2: f32,
    /// Added to the root of the second moment; more than 0.
    pub epsilon: f32,
    /// Decoupled weight decay, at least 0.
    pub weight_decay: f32,
    /// 1 - beta1^t, in (0, 1\].
    pub bias_correction1: f32,
    /// 1 - beta2^t, in (0, 1\].
    pub bias_correction2: f32,
    /// Master weights and weights.
    pub master: Master<'a>,
    /// Mean of the gradient.
    pub moment1: Moment<'a>,
    /// Mean of the squared gradient.
    pub moment2: Moment<'a>,
    /// What rounds stochastically: needed for weights without a master and for bf16 moments.
    pub random: Option<Random>,
    /// What the step decided, a [`Control`](super::step_control::Control).
    pub control: Option<View<'a>>,
}

/// What one call computes from its scalars, in f64 rounded to f32.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Decay of the first moment.
    pub beta1: f32,
    /// 1 - beta1.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// 1 - beta2.
    pub one_minus_beta2: f32,
    /// 1 / sqrt(bias_correction2).
    pub inverse_root: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// learning_rate / bias_correction1.
    pub rate: f32,
    /// learning_rate * weight_decay.
    pub decay: f32,
}

/// 1 - beta^step in f64: by squaring, so that it is the same on every machine. The first step is 1, which 0 is taken
/// as.
pub fn bias_correction(beta: f32, step: u64) -> f32 {
    let (mut power, mut square, mut rest) = (1.0f64, f64::from(beta), step.max(1));
    while rest > 0 {
        if rest & 1 == 1 {
            power *= square;
        }
        square *= square;
        rest >>= 1;
    }
    (1.0 - power) as f32
}

impl<'a> AdamW<'a> {
    /// With what the control block says, where there is one; None when nothing is to be done.
    fn decided(&self) -> Option<AdamW<'a>> {
        match self.control.as_ref().map(decided) {
            None => Some(*self),
            Some(Decision::Skip) => None,
            Some(Decision::Take { gradient_scale, step }) => Some(AdamW {
                gradient_scale,
                bias_correction1: bias_correction(self.beta1, step),
                bias_correction2: bias_correction(self.beta2, step),
                random: at_step(self.random, step),
                ..*self
            }),
        }
    }

    /// The constants of this call.
    pub fn constants(&self) -> Constants {
        let learning_rate = f64::from(self.learning_rate);
        Constants {
            beta1: self.beta1,
            one_minus_beta1: (1.0 - f64::from(self.beta1)) as f32,
            beta2: self.beta2,
            one_minus_beta2: (1.0 - f64::from(self.beta2)) as f32,
            inverse_root: (1.0 / f64::from(self.bias_correction2).sqrt()) as f32,
            epsilon: self.epsilon,
            rate: (learning_rate / f64::from(self.bias_correction1)) as f32,
            decay: (learning_rate * f64::from(self.weight_decay)) as f32,
        }
    }

    fn tensors(&self) -> Tensors<'a, 2> {
        Tensors {
            gradient: self.gradient,
            gradient_scale: self.gradient_scale,
            master: self.master,
            moments: [
                (Name { moment: "moment1", absmax: "moment1_absmax" }, self.moment1),
                (Name { moment: "moment2", absmax: "moment2_absmax" }, self.moment2),
            ],
            random: self.random,
            control: self.control,
        }
    }
}

impl Op for AdamW<'_> {
    const NAME: &'static str = "adamw";

    fn views(&self, visit: &mut dyn FnMut(&'static str, &View<'_>)) {
        self.tensors().visit(&mut |name, view| visit(name, &view));
    }

    fn check(&self) -> Result<(), Invalid> {
        expect_not_negative("learning_rate", self.learning_rate)?;
        expect_below_one("beta1", self.beta1)?;
        expect_below_one("beta2", self.beta2)?;
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Invalid::new("epsilon", format!("{} must be finite and more than 0", self.epsilon)));
        }
        expect_not_negative("weight_decay", self.weight_decay)?;
        for (name, correction) in
            [("bias_correction1", self.bias_correction1), ("bias_correction2", self.bias_correction2)]
        {
            if !(correction > 0.0 && correction <= 1.0) {
                return Err(Invalid::new(name, format!("{correction} must be more than 0 and at most 1")));
            }
        }
        self.tensors().check()
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        if let Some(op) = self.decided() {
            cpu::run(&op, cpu);
        }
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
