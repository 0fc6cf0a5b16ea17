//! One streaming pass.

use super::{Constants, Lion};
use crate::backend::cpu::{Cpu, Simd};
use crate::ops::optimizer::{Rule, step1};

pub(super) fn run(op: &Lion<'_>, cpu: &Cpu<'_>) {
    step1(cpu, &op.tensors(), op.constants());
}

impl Rule<1> for Constants {
    #[inline(always)]
    fn update<S: Simd>(&self, s: S, g: S::F, master: S::F, [moment]: [S::F; 1]) -> (S::F, [S::F; 1]) {
        let c = s.fma(s.splat(self.beta1), moment, s.mul(s.splat(self.one_minus_beta1), g));
        let moment = s.fma(s.splat(self.beta2), moment, s.mul(s.splat(self.one_minus_beta2), g));
        // Neither comparison holds for 0 and NaN, which then stand for their own sign.
        let zero = s.splat(0.0);
        let sign = s.select(s.lt(zero, c), s.splat(1.0), s.select(s.lt(c, zero), s.splat(-1.0), c));
        let change = s.fma(s.splat(self.decay), master, s.mul(s.splat(self.learning_rate), sign));
        (s.sub(master, change), [moment])
    }
}
