use super::Fill;
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

pub(super) fn run(op: &Fill<'_>, cpu: &Cpu<'_>) {
    with_float!(op.y.dtype(), T => elementwise::<(), (T,)>(cpu, &[], &[op.y], Constant(op.value)));
}

struct Constant(f32);

impl<T: Element> Map<(), (T,)> for Constant {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (): ()) -> (S::F,) {
        (s.splat(self.0),)
    }
}
