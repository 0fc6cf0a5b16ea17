//! One streaming pass; stochastic rounding is integer addition below the kept mantissa, then truncation.

use super::{Cast, Rounding};
use crate::backend::cpu::elementwise::{RandomMap, Same, elementwise, elementwise_random};
use crate::backend::cpu::{Bits16, Cpu, Element, Simd};
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
        let bits = s.bits(x);
        let rounded = s.keep_nan(bits, s.add_i(bits, s.shr::<16>(random)));
        (s.of_bits(s.shr::<16>(rounded)),)
    }
}

struct StochasticF16;

impl<A: Element> RandomMap<(A,), (Bits16,)> for StochasticF16 {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,), random: S::I) -> (S::F,) {
        const DROPPED: i32 = (1 << 13) - 1;
        let bits = s.bits(x);
        let magnitude = s.and(bits, s.splat_i(i32::MAX));
        let normal = s.and(s.add_i(magnitude, s.shr::<19>(random)), s.splat_i(!DROPPED));
        // Below 2^-14 all units are 2^-24, and counts of them are exact.
        let size = s.of_bits(magnitude);
        let count = s.mul(size, s.splat((1 << 24) as f32));
        let nearest = s.round(count);
        let one = s.splat(1.0);
        let down = s.select(s.lt(count, nearest), s.sub(nearest, one), nearest);
        let unit = s.splat(1.0 / (1 << 24) as f32);
        let up = s.lt(s.mul(s.to_f(s.shr::<8>(random)), unit), s.sub(count, down));
        let denormal = s.mul(s.select(up, s.add(down, one), down), unit);
        let rounded = s.select_i(
            s.gt_i(s.splat_i((127 - 14) << 23), magnitude),
            s.bits(denormal),
            s.select_i(s.gt_i(magnitude, s.splat_i(0x7f80_0000)), magnitude, normal),
        );
        // What is left of the conversion is exact, or 65536 and more.
        let value = s.of_bits(s.or(rounded, s.and(bits, s.splat_i(i32::MIN))));
        (s.of_bits(s.f32_to_f16(value)),)
    }
}
