//! Lion: the sign of an interpolated momentum (Chen et al. 2023, "Symbolic discovery of optimization algorithms",
//! algorithm 2).
//!
//! | argument | dtype | |
//! |---|---|---|
//! | gradient | f32, bf16 or f16 | read |
//! | master | a [`Master`]: f32 in one of three formats, and the weight | updated in place |
//! | moment | a [`Moment`] | updated in place |
//! | control | i64 \[10\]; optional | read |
//!
//! All but control and scales have one shape of 0 to 5 dimensions and contiguous rows; if master or moment are not f32,
//! all are contiguous. None shares memory with another. Element by element, in f32 whatever the formats, where each
//! operation rounds once to nearest even f32, as written, and fma(a, b, c) = a b + c rounds once:
//!
//! ```text
//! g      = gradient * gradient_scale
//! c      = fma(beta1, moment, (1 - beta1) * g)
//! moment = fma(beta2, moment, (1 - beta2) * g)
//! master = master - fma(decay, master, learning_rate * sign(c))    sign(0) = 0, sign(NaN) = NaN
//! weight = master, rounded as its format says: bf16 to nearest with ties away from zero, f16 with ties to even
//! ```
//!
//! (1 - beta1), (1 - beta2) and decay = learning_rate * weight_decay ([`Constants`]) are computed once per call in f64
//! and then rounded to f32. With a control block of [`super::step_control`], gradient_scale is that of the block, and
//! nothing is changed when the block says that the step is skipped.
//!
//! Tolerance: none: the same bits at every level, for any number of threads and any division of the elements (which NaN
//! a NaN becomes is not specified). Zero elements do nothing.

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
pub struct Lion<'a> {
    /// Gradient of the loss.
    pub gradient: View<'a>,
    /// Multiplies the gradient: clip factor over loss scale.
    pub gradient_scale: f32,
    /// Learning rate, at least 0.
    pub learning_rate: f32,
    /// Interpolation of the update, in \[0, 1).
    pub beta1: f32,
    /// Decay of the moment, in \[0, 1).
    pub beta2: f32,
    /// Decoupled weight decay, at least 0.
    pub weight_decay: f32,
    /// Master weights and weights.
    pub master: Master<'a>,
    /// Mean of the gradient.
    pub moment: Moment<'a>,
    /// What rounds stochastically: needed for weights without a master and for bf16 moments.
    pub random: Option<Random>,
    /// What the step decided, a [`Control`](super::step_control::Control).
    pub control: Option<View<'a>>,
}

/// What one call computes from its scalars, in f64 rounded to f32.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Interpolation of the update.
    pub beta1: f32,
    /// 1 - beta1.
    pub one_minus_beta1: f32,
    /// Decay of the moment.
    pub beta2: f32,
    /// 1 - beta2.
    pub one_minus_beta2: f32,
    /// The learning rate.
    pub learning_rate: f32,
    /// learning_rate * weight_decay.
    pub decay: f32,
}

impl<'a> Lion<'a> {
    /// The constants of this call.
    pub fn constants(&self) -> Constants {
        Constants {
            beta1: self.beta1,
            one_minus_beta1: (1.0 - f64::from(self.beta1)) as f32,
            beta2: self.beta2,
            one_minus_beta2: (1.0 - f64::from(self.beta2)) as f32,
            learning_rate: self.learning_rate,
            decay: (f64::from(self.learning_rate) * f64::from(self.weight_decay)) as f32,
        }
    }

    /// With what the control block says, where there is one; None when nothing is to be done.
    fn decided(&self) -> Option<Lion<'a>> {
        match self.control.as_ref().map(decided) {
            None => Some(*self),
            Some(Decision::Skip) => None,
            Some(Decision::Take { gradient_scale, step }) => {
                Some(Lion { gradient_scale, random: at_step(self.random, step), ..*self })
            }
        }
    }

    fn tensors(&self) -> Tensors<'a, 1> {
        Tensors {
            gradient: self.gradient,
            gradient_scale: self.gradient_scale,
            master: self.master,
            moments: [(Name { moment: "moment", absmax: "moment_absmax" }, self.moment)],
            random: self.random,
            control: self.control,
        }
    }
}

impl Op for Lion<'_> {
    const NAME: &'static str = "lion";

    fn views(&self, visit: &mut dyn FnMut(&'static str, &View<'_>)) {
        self.tensors().visit(&mut |name, view| visit(name, &view));
    }

    fn check(&self) -> Result<(), Invalid> {
        expect_not_negative("learning_rate", self.learning_rate)?;
        expect_below_one("beta1", self.beta1)?;
        expect_below_one("beta2", self.beta2)?;
        expect_not_negative("weight_decay", self.weight_decay)?;
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
