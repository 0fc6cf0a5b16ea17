use super::{GeluBackward, GeluForward, GeluKind};
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::math::{exp, normal_tail};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

/// sqrt(2 / pi).
const SCALE: f32 = 0.797_884_6;
/// 1 / sqrt(2 pi).
const DENSITY: f32 = 0.398_942_3;
const CUBIC: f32 = 0.044_715;

/// gelu(x) of each lane.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, kind: GeluKind, x: S::F) -> S::F {
    match kind {
        GeluKind::Exact => {
            let (tail, _) = normal_tail(s, s.abs(x));
            s.mul(x, distribution(s, x, tail))
        }
        GeluKind::Tanh => {
            // (1 + tanh u) / 2 = 1 / (1 + e^(-2u)) has no cancellation.
            let one = s.splat(1.0);
            s.div(x, s.add(one, exp(s, doubled(s, x, -2.0))))
        }
    }
}

/// The derivative of gelu at each lane.
#[inline(always)]
pub(crate) fn gelu_gradient<S: Simd>(s: S, kind: GeluKind, x: S::F) -> S::F {
    match kind {
        GeluKind::Exact => {
            let (tail, power) = normal_tail(s, s.abs(x));
            s.fast_fma(s.mul(x, s.splat(DENSITY)), power, distribution(s, x, tail))
        }
        GeluKind::Tanh => {
            // With q = e^(-2|u|): sigma(-2|u|) = q / (1 + q), and sigma' = q / (1 + q)^2.
            let one = s.splat(1.0);
            let q = exp(s, s.neg(doubled(s, s.abs(x), 2.0)));
            let r = s.div(one, s.add(one, q));
            let tail = s.mul(q, r);
            // The slope is 0 beyond 16, where x^2 must not overflow.
            let near = s.min(s.splat(16.0), s.abs(x));
            let du = s.fast_fma(s.mul(near, near), s.splat(6.0 * SCALE * CUBIC), s.splat(2.0 * SCALE));
            s.fast_fma(s.mul(x, du), s.mul(tail, r), distribution(s, x, tail))
        }
    }
}

/// x < 0 ? tail : 1 - tail.
#[inline(always)]
fn distribution<S: Simd>(s: S, x: S::F, tail: S::F) -> S::F {
    s.select(s.lt(x, s.splat(0.0)), tail, s.sub(s.splat(1.0), tail))
}

/// factor sqrt(2/pi) (x + 0.044715 x^3).
#[inline(always)]
fn doubled<S: Simd>(s: S, x: S::F, factor: f32) -> S::F {
    let c = s.fast_fma(s.mul(x, x), s.splat(factor * SCALE * CUBIC), s.splat(factor * SCALE));
    s.mul(x, c)
}

struct Forward<const TANH: bool>;
struct Backward<const TANH: bool>;

#[inline(always)]
fn kind(tanh: bool) -> GeluKind {
    if tanh { GeluKind::Tanh } else { GeluKind::Exact }
}

impl<T: Element, const TANH: bool> Map<(T,), (T,)> for Forward<TANH> {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,)) -> (S::F,) {
        (gelu(s, kind(TANH), x),)
    }
}

impl<T: Element, const TANH: bool> Map<(T, T), (T,)> for Backward<TANH> {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x, dy): (S::F, S::F)) -> (S::F,) {
        (s.mul(gelu_gradient(s, kind(TANH), x), dy),)
    }
}

pub(super) fn forward(op: &GeluForward<'_>, cpu: &Cpu<'_>) {
    with_float!(op.x.dtype(), T => match op.kind {
        GeluKind::Exact => elementwise::<(T,), (T,)>(cpu, &[op.x], &[op.y], Forward::<false>),
        GeluKind::Tanh => elementwise::<(T,), (T,)>(cpu, &[op.x], &[op.y], Forward::<true>),
    });
}

pub(super) fn backward(op: &GeluBackward<'_>, cpu: &Cpu<'_>) {
    with_float!(op.x.dtype(), T => match op.kind {
        GeluKind::Exact => elementwise::<(T, T), (T,)>(cpu, &[op.x, op.dy], &[op.dx], Backward::<false>),
        GeluKind::Tanh => elementwise::<(T, T), (T,)>(cpu, &[op.x, op.dy], &[op.dx], Backward::<true>),
    });
}
