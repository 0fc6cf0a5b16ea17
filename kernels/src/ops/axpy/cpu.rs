use super::Axpy;
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

pub(super) fn run(op: &Axpy<'_>, cpu: &Cpu<'_>) {
    with_float!(op.x.dtype(), X => with_float!(op.y.dtype(), Y => {
        elementwise::<(X, Y), (Y,)>(cpu, &[op.x, op.y], &[op.y], AddTimes(op.alpha));
    }));
}

struct AddTimes(f32);

impl<X: Element, Y: Element> Map<(X, Y), (Y,)> for AddTimes {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x, y): (S::F, S::F)) -> (S::F,) {
        (s.fma(s.splat(self.0), x, y),)
    }
}
