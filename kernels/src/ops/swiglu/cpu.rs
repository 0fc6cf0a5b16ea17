use super::{SwigluBackward, SwigluForward};
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::math::{exp, sigmoid};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

struct Forward;
struct Backward;

impl<T: Element> Map<(T, T), (T,)> for Forward {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (gate, up): (S::F, S::F)) -> (S::F,) {
        let silu = s.div(gate, s.add(s.splat(1.0), exp(s, s.neg(gate))));
        (s.mul(silu, up),)
    }
}

impl<T: Element> Map<(T, T, T), (T, T)> for Backward {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (gate, up, dy): (S::F, S::F, S::F)) -> (S::F, S::F) {
        let sigma = sigmoid(s, gate);
        let one = s.splat(1.0);
        let slope = s.mul(sigma, s.fast_fma(gate, s.sub(one, sigma), one));
        (s.mul(s.mul(dy, up), slope), s.mul(dy, s.mul(gate, sigma)))
    }
}

pub(super) fn forward(op: &SwigluForward<'_>, cpu: &Cpu<'_>) {
    with_float!(op.gate.dtype(), T => elementwise::<(T, T), (T,)>(cpu, &[op.gate, op.up], &[op.y], Forward));
}

pub(super) fn backward(op: &SwigluBackward<'_>, cpu: &Cpu<'_>) {
    let (inputs, outputs) = ([op.gate, op.up, op.dy], [op.dgate, op.dup]);
    with_float!(op.gate.dtype(), T => elementwise::<(T, T, T), (T, T)>(cpu, &inputs, &outputs, Backward));
}
