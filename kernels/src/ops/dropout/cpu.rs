use super::{Dropout, factor, threshold};
use crate::backend::cpu::elementwise::{RandomMap, elementwise_random};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

pub(super) fn run(op: &Dropout<'_>, cpu: &Cpu<'_>) {
    // With both operands' top bits flipped, a signed comparison is an unsigned one.
    let drop = Drop { threshold: threshold(op.probability) as i32 ^ i32::MIN, factor: factor(op.probability) };
    with_float!(op.x.dtype(), T => {
        elementwise_random::<(T,), (T,)>(cpu, &[op.x], &[op.y], op.key, op.first_index, drop);
    });
}

struct Drop {
    threshold: i32,
    factor: f32,
}

impl<T: Element> RandomMap<(T,), (T,)> for Drop {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,), random: S::I) -> (S::F,) {
        let dropped = s.gt_i(s.splat_i(self.threshold), s.xor(random, s.splat_i(i32::MIN)));
        (s.select(dropped, s.splat(0.0), s.mul(x, s.splat(self.factor))),)
    }
}
