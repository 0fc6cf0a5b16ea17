//! One streaming pass: 28 bytes per element with bf16 gradient and weight.

use super::{AdamW, Constants};
use crate::backend::cpu::{Cpu, Simd};
use crate::ops::optimizer::{Rule, step2};

pub(super) fn run(op: &AdamW<'_>, cpu: &Cpu<'_>) {
    step2(cpu, &op.tensors(), op.constants());
}

impl Rule<2> for Constants {
    #[inline(always)]
    fn update<S: Simd>(&self, s: S, g: S::F, master: S::F, [m, v]: [S::F; 2]) -> (S::F, [S::F; 2]) {
        let m = s.fma(s.splat(self.beta1), m, s.mul(s.splat(self.one_minus_beta1), g));
        let v = s.fma(s.splat(self.beta2), v, s.mul(s.splat(self.one_minus_beta2), s.mul(g, g)));
        let u = s.div(m, s.fma(s.sqrt(v), s.splat(self.inverse_root), s.splat(self.epsilon)));
        let change = s.fma(s.splat(self.decay), master, s.mul(s.splat(self.rate), u));
        (s.sub(master, change), [m, v])
    }
}
