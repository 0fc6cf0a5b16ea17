//! One streaming pass.

use super::Sgd;
use crate::backend::cpu::{Cpu, Simd};
use crate::ops::optimizer::{Rule, step0, step1};

pub(super) fn run(op: &Sgd<'_>, cpu: &Cpu<'_>) {
    let plain = Plain { weight_decay: op.weight_decay, rate: -op.learning_rate };
    match op.momentum_buffer {
        None => step0(cpu, &op.tensors([]), plain),
        Some(buffer) => {
            let one_minus_dampening = op.one_minus_dampening();
            let (momentum, nesterov, first_step) = (op.momentum, op.nesterov, op.first_step);
            let rule = Momentum { plain, momentum, one_minus_dampening, nesterov, first_step };
            step1(cpu, &op.tensors([buffer]), rule);
        }
    }
}

/// Without momentum.
#[derive(Clone, Copy)]
struct Plain {
    weight_decay: f32,
    /// -learning_rate.
    rate: f32,
}

impl Plain {
    /// The gradient with the decay.
    #[inline(always)]
    fn decayed<S: Simd>(&self, s: S, g: S::F, master: S::F) -> S::F {
        if self.weight_decay == 0.0 { g } else { s.fma(s.splat(self.weight_decay), master, g) }
    }
}

impl Rule<0> for Plain {
    #[inline(always)]
    fn update<S: Simd>(&self, s: S, g: S::F, master: S::F, []: [S::F; 0]) -> (S::F, [S::F; 0]) {
        (s.fma(s.splat(self.rate), self.decayed(s, g, master), master), [])
    }
}

struct Momentum {
    plain: Plain,
    momentum: f32,
    one_minus_dampening: f32,
    nesterov: bool,
    first_step: bool,
}

impl Rule<1> for Momentum {
    #[inline(always)]
    fn update<S: Simd>(&self, s: S, g: S::F, master: S::F, [buffer]: [S::F; 1]) -> (S::F, [S::F; 1]) {
        let momentum = s.splat(self.momentum);
        let d = self.plain.decayed(s, g, master);
        let buffer =
            if self.first_step { d } else { s.fma(momentum, buffer, s.mul(s.splat(self.one_minus_dampening), d)) };
        let u = if self.nesterov { s.fma(momentum, buffer, d) } else { buffer };
        (s.fma(s.splat(self.plain.rate), u, master), [buffer])
    }
}
