use super::WriteBack;
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::{Bf16Away, Cpu, Element, Simd};
use crate::dtype::{DType, f16};

struct Same;

impl<W: Element> Map<(f32,), (W,)> for Same {
    #[inline(always)]
    fn map<S: Simd>(&self, _: S, x: (S::F,)) -> (S::F,) {
        x
    }
}

pub(super) fn run(op: &WriteBack<'_>, cpu: &Cpu<'_>) {
    let (inputs, outputs) = (&[op.master], &[op.weight]);
    match op.weight.dtype() {
        DType::BF16 => elementwise::<(f32,), (Bf16Away,)>(cpu, inputs, outputs, Same),
        DType::F16 => elementwise::<(f32,), (f16,)>(cpu, inputs, outputs, Same),
        _ => elementwise::<(f32,), (f32,)>(cpu, inputs, outputs, Same),
    }
}
