use super::Scale;
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

pub(super) fn run(op: &Scale<'_>, cpu: &Cpu<'_>) {
    with_float!(op.x.dtype(), T => elementwise::<(T,), (T,)>(cpu, &[op.x], &[op.y], Times(op.alpha)));
}

struct Times(f32);

impl<T: Element> Map<(T,), (T,)> for Times {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,)) -> (S::F,) {
        (s.mul(s.splat(self.0), x),)
    }
}
