//! One streaming pass.

use super::{Cast, Rounding};
use crate::backend::cpu::elementwise::{RandomMap, Same, elementwise, elementwise_random};
use crate::backend::cpu::{Bits16, Cpu, Element, Simd, stochastic};
use crate::dtype::DType;
use crate::with_float;

pub(super) fn run(op: &Cast<'_>, cpu: &Cpu<'_>) {
    let (inputs, outputs) = (&[op.x], &[op.y]);
    match (op.rounding, op.y.dtype()) {
        (_, dtype) if dtype == op.x.dtype() => match dtype {
            DType::F32 => elementwise::<(f32,), (f32,)>(cpu, inputs, outputs, Same),
            _ => elementwise::<(Bits16,), (Bits16,)>(cpu, inputs, outputs, Same),
        },
        (Rounding::Stochastic { key, first_index }, DType::BF16) => with_float!(op.x.dtype(), A => {
            elementwise_random::<(A,), (Bits16,)>(cpu, inputs, outputs, key, first_index, StochasticBf16);
        }),
        (Rounding::Stochastic { key, first_index }, DType::F16) => with_float!(op.x.dtype(), A => {
            elementwise_random::<(A,), (Bits16,)>(cpu, inputs, outputs, key, first_index, StochasticF16);
        }),
        _ => with_float!(op.x.dtype(), A => with_float!(op.y.dtype(), B => {
            elementwise::<(A,), (B,)>(cpu, inputs, outputs, Same);
        })),
    }
}

struct StochasticBf16;

impl<A: Element> RandomMap<(A,), (Bits16,)> for StochasticBf16 {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,), random: S::I) -> (S::F,) {
        (s.of_bits(stochastic::bf16(s, x, random)),)
    }
}

struct StochasticF16;

impl<A: Element> RandomMap<(A,), (Bits16,)> for StochasticF16 {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,), random: S::I) -> (S::F,) {
        (s.of_bits(stochastic::f16(s, x, random)),)
    }
}
