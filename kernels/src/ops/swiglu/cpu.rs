use super::{SwigluBackward, SwigluForward};
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::math::{FIXED, exp, exp2_fixed_coarse, fixed, logistic_rough, sigmoid};
use crate::backend::cpu::{Cpu, Float, Simd};
use crate::dtype::DType;
use crate::with_float;

/// -2^23 log2(e), the unit of a fixed-point exponent.
const UNIT: f32 = -std::f32::consts::LOG2_E * FIXED;

struct Forward;
struct Backward;

impl<T: Float> Map<(T, T), (T::Computed,)> for Forward {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (gate, up): (S::F, S::F)) -> (S::F,) {
        let one = s.splat(1.0);
        let silu = if T::DTYPE == DType::BF16 {
            let power = exp2_fixed_coarse(s, fixed(s, s.mul(gate, s.splat(UNIT))));
            s.mul(gate, s.reciprocal(s.add(one, power)))
        } else {
            s.div(gate, s.add(one, exp(s, s.neg(gate))))
        };
        (s.mul(silu, up),)
    }
}

impl<T: Float> Map<(T, T, T), (T::Computed, T::Computed)> for Backward {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (gate, up, dy): (S::F, S::F, S::F)) -> (S::F, S::F) {
        let one = s.splat(1.0);
        let (sigma, slope) = if T::DTYPE == DType::BF16 {
            let (sigma, slope) = logistic_rough(s, s.mul(s.abs(gate), s.splat(UNIT)), s.lt(gate, s.splat(0.0)));
            (sigma, s.fast_fma(gate, slope, sigma))
        } else {
            let sigma = sigmoid(s, gate);
            (sigma, s.mul(sigma, s.fast_fma(gate, s.sub(one, sigma), one)))
        };
        (s.mul(s.mul(dy, up), slope), s.mul(dy, s.mul(gate, sigma)))
    }
}

pub(super) fn forward(op: &SwigluForward<'_>, cpu: &Cpu<'_>) {
    with_float!(op.gate.dtype(), T => elementwise::<(T, T), (<T as Float>::Computed,)>(cpu, &[op.gate, op.up], &[op.y], Forward));
}

pub(super) fn backward(op: &SwigluBackward<'_>, cpu: &Cpu<'_>) {
    let (inputs, outputs) = ([op.gate, op.up, op.dy], [op.dgate, op.dup]);
    with_float!(op.gate.dtype(), T => elementwise::<(T, T, T), (<T as Float>::Computed, <T as Float>::Computed)>(cpu, &inputs, &outputs, Backward));
}
