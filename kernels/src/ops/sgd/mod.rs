//! SGD: stochastic gradient descent with momentum, as PyTorch's `torch.optim.SGD` defines it (Sutskever et al. 2013,
//! with the buffer first set to the gradient).
//!
//! | argument | dtype | |
//! |---|---|---|
//! | gradient | f32, bf16 or f16 | read |
//! | master | a [`Master`]: f32 in one of three formats, and the weight | updated in place |
//! | momentum_buffer | a [`Moment`]; required exactly when momentum is not 0 | updated in place; set on the first step |
//! | control | i64 \[10\]; optional | read |
//!
//! All but control and scales have one shape of 0 to 5 dimensions and contiguous rows; if master or buffer are not f32,
//! all are contiguous. None shares memory with another. Element by element, in f32 whatever the formats, where each
//! operation rounds once to nearest even f32, as written, and fma(a, b, c) = a b + c rounds once:
//!
//! ```text
//! g               = gradient * gradient_scale
//! d               = fma(weight_decay, master, g)             (g when weight_decay is 0)
//! momentum_buffer = fma(momentum, momentum_buffer, (1 - dampening) * d)   (d on the first step)
//! u               = momentum_buffer, or with nesterov fma(momentum, momentum_buffer, d)   (d without momentum)
//! master          = fma(-learning_rate, u, master)
//! weight          = master, rounded as its format says: bf16 to nearest with ties away from zero, f16 with ties to even
//! ```
//!
//! 1 - dampening is computed once per call in f64 and then rounded to f32. With a control block of
//! [`super::step_control`], gradient_scale and whether this is the first step are those of the block, and nothing is
//! changed when the block says that the step is skipped.
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

/// The names of the momentum buffer.
const BUFFER: Name = Name { moment: "momentum_buffer", absmax: "momentum_buffer_absmax" };

/// One update; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct Sgd<'a> {
    /// Gradient of the loss.
    pub gradient: View<'a>,
    /// Multiplies the gradient: clip factor over loss scale.
    pub gradient_scale: f32,
    /// Learning rate, at least 0.
    pub learning_rate: f32,
    /// Momentum, at least 0; 0 is none.
    pub momentum: f32,
    /// Part of the gradient kept out of the buffer, in \[0, 1); must be 0 with nesterov.
    pub dampening: f32,
    /// Whether to look ahead along the buffer; needs momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient; at least 0.
    pub weight_decay: f32,
    /// Whether the buffer has no value yet.
    pub first_step: bool,
    /// Master weights and weights.
    pub master: Master<'a>,
    /// The momentum buffer.
    pub momentum_buffer: Option<Moment<'a>>,
    /// What rounds stochastically: needed for weights without a master and for a bf16 buffer.
    pub random: Option<Random>,
    /// What the step decided, a [`Control`](super::step_control::Control).
    pub control: Option<View<'a>>,
}

impl<'a> Sgd<'a> {
    /// With what the control block says, where there is one; None when nothing is to be done.
    fn decided(&self) -> Option<Sgd<'a>> {
        match self.control.as_ref().map(decided) {
            None => Some(*self),
            Some(Decision::Skip) => None,
            Some(Decision::Take { gradient_scale, step }) => {
                Some(Sgd { gradient_scale, first_step: step <= 1, random: at_step(self.random, step), ..*self })
            }
        }
    }

    /// 1 - dampening.
    fn one_minus_dampening(&self) -> f32 {
        (1.0 - f64::from(self.dampening)) as f32
    }

    fn tensors<const N: usize>(&self, moments: [Moment<'a>; N]) -> Tensors<'a, N> {
        Tensors {
            gradient: self.gradient,
            gradient_scale: self.gradient_scale,
            master: self.master,
            moments: moments.map(|moment| (BUFFER, moment)),
            random: self.random,
            control: self.control,
        }
    }
}

impl Op for Sgd<'_> {
    const NAME: &'static str = "sgd";

    fn views(&self, visit: &mut dyn FnMut(&'static str, &View<'_>)) {
        match self.momentum_buffer {
            None => self.tensors([]).visit(&mut |name, view| visit(name, &view)),
            Some(buffer) => self.tensors([buffer]).visit(&mut |name, view| visit(name, &view)),
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        expect_not_negative("learning_rate", self.learning_rate)?;
        expect_not_negative("momentum", self.momentum)?;
        expect_below_one("dampening", self.dampening)?;
        expect_not_negative("weight_decay", self.weight_decay)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Invalid::new("nesterov", "needs momentum more than 0 and dampening 0"));
        }
        match self.momentum_buffer {
            None if self.momentum != 0.0 => Err(Invalid::new("momentum_buffer", "must not be NULL with momentum")),
            Some(_) if self.momentum == 0.0 => Err(Invalid::new("momentum_buffer", "must be NULL without momentum")),
            None => self.tensors([]).check(),
            Some(buffer) => self.tensors([buffer]).check(),
        }
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
