use super::Add;
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

struct Sum;

impl<T: Element> Map<(T, T), (T,)> for Sum {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (a, b): (S::F, S::F)) -> (S::F,) {
        (s.add(a, b),)
    }
}

pub(super) fn run(op: &Add<'_>, cpu: &Cpu<'_>) {
    with_float!(op.a.dtype(), T => elementwise::<(T, T), (T,)>(cpu, &[op.a, op.b], &[op.y], Sum));
}
