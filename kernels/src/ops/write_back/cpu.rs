use super::WriteBack;
use crate::backend::cpu::elementwise::{Same, elementwise};
use crate::backend::cpu::{Bf16Away, Cpu};
use crate::dtype::{DType, f16};

pub(super) fn run(op: &WriteBack<'_>, cpu: &Cpu<'_>) {
    let (inputs, outputs) = (&[op.master], &[op.weight]);
    match op.weight.dtype() {
        DType::BF16 => elementwise::<(f32,), (Bf16Away,)>(cpu, inputs, outputs, Same),
        DType::F16 => elementwise::<(f32,), (f16,)>(cpu, inputs, outputs, Same),
        _ => elementwise::<(f32,), (f32,)>(cpu, inputs, outputs, Same),
    }
}
