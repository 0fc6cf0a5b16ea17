use super::{GeluBackward, GeluForward, GeluKind};
use crate::backend::cpu::elementwise::{Map, elementwise};
use crate::backend::cpu::math::{FIXED, exp, exp2_fixed_coarse, fixed, logistic_rough, normal_tail};
use crate::backend::cpu::{Cpu, Element, Float, Simd};
use crate::dtype::DType;
use crate::with_float;

/// sqrt(2 / pi).
const SCALE: f32 = 0.797_884_6;
/// 1 / sqrt(2 pi).
const DENSITY: f32 = 0.398_942_3;
const CUBIC: f32 = 0.044_715;

/// gelu(x) of each lane, as precise as a result that is stored as `T` needs it.
#[inline(always)]
pub(crate) fn gelu<S: Simd, T: Element>(s: S, kind: GeluKind, x: S::F) -> S::F {
    if T::DTYPE == DType::BF16 {
        return gelu_bf16(s, kind, x);
    }
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

/// The derivative of gelu at each lane, as precise as a result that is stored as `T` needs it.
#[inline(always)]
pub(crate) fn gelu_gradient<S: Simd, T: Element>(s: S, kind: GeluKind, x: S::F) -> S::F {
    match kind {
        GeluKind::Tanh if T::DTYPE == DType::BF16 => gelu_gradient_bf16(s, x),
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
            // x du may overflow where the slope is 0.
            s.fast_fma(x, s.mul(du, s.mul(tail, r)), distribution(s, x, tail))
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

/// 2^23 log2(e), the unit of a fixed-point exponent.
const UNIT: f32 = std::f32::consts::LOG2_E * FIXED;

/// [`gelu`] within 2e-4 of its value, or 2e-7, for results that are stored as bf16.
#[inline(always)]
fn gelu_bf16<S: Simd>(s: S, kind: GeluKind, x: S::F) -> S::F {
    // Both kinds are x / (1 + e^-z), z odd in x.
    let minus_z = match kind {
        GeluKind::Tanh => doubled(s, x, -2.0 * UNIT),
        GeluKind::Exact => {
            // log(Phi(x) / Phi(-x)), a minimax fit of its error relative to Phi(-|x|) up to 5.2; linear beyond, where the
            // result is x or less than 2e-6.
            const C: [f32; 5] = [1.594_608_8, 0.074_222_29, -6.575_562_3e-4, -1.506_946_2e-5, 5.734_230_5e-7];
            let x2 = s.min(s.splat(5.2 * 5.2), s.mul(x, x));
            let mut p = s.splat(-UNIT * C[4]);
            for c in [C[3], C[2], C[1], C[0]] {
                p = s.fast_fma(p, x2, s.splat(-UNIT * c));
            }
            s.mul(x, p)
        }
    };
    let e = exp2_fixed_coarse(s, fixed(s, minus_z));
    s.mul(x, s.reciprocal(s.add(e, s.splat(1.0))))
}

/// [`gelu_gradient`] of the tanh kind within 2e-5 of 1, for results that are stored as bf16.
#[inline(always)]
fn gelu_gradient_bf16<S: Simd>(s: S, x: S::F) -> S::F {
    let minus_z = doubled(s, s.abs(x), -2.0 * UNIT);
    let (sigma, slope) = logistic_rough(s, minus_z, s.lt(x, s.splat(0.0)));
    // The slope is 0 beyond 16, where x^2 must not overflow.
    let near = s.min(s.splat(256.0), s.mul(x, x));
    let dz = s.fast_fma(near, s.splat(6.0 * SCALE * CUBIC), s.splat(2.0 * SCALE));
    s.fast_fma(x, s.mul(slope, dz), sigma)
}

struct Forward<const TANH: bool>;
struct Backward<const TANH: bool>;

#[inline(always)]
fn kind(tanh: bool) -> GeluKind {
    if tanh { GeluKind::Tanh } else { GeluKind::Exact }
}

impl<T: Float, const TANH: bool> Map<(T,), (T::Computed,)> for Forward<TANH> {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x,): (S::F,)) -> (S::F,) {
        (gelu::<S, T>(s, kind(TANH), x),)
    }
}

impl<T: Float, const TANH: bool> Map<(T, T), (T::Computed,)> for Backward<TANH> {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (x, dy): (S::F, S::F)) -> (S::F,) {
        (s.mul(gelu_gradient::<S, T>(s, kind(TANH), x), dy),)
    }
}

pub(super) fn forward(op: &GeluForward<'_>, cpu: &Cpu<'_>) {
    with_float!(op.x.dtype(), T => match op.kind {
        GeluKind::Exact => elementwise::<(T,), (<T as Float>::Computed,)>(cpu, &[op.x], &[op.y], Forward::<false>),
        GeluKind::Tanh => elementwise::<(T,), (<T as Float>::Computed,)>(cpu, &[op.x], &[op.y], Forward::<true>),
    });
}

pub(super) fn backward(op: &GeluBackward<'_>, cpu: &Cpu<'_>) {
    with_float!(op.x.dtype(), T => match op.kind {
        GeluKind::Exact => elementwise::<(T, T), (<T as Float>::Computed,)>(cpu, &[op.x, op.dy], &[op.dx], Backward::<false>),
        GeluKind::Tanh => elementwise::<(T, T), (<T as Float>::Computed,)>(cpu, &[op.x, op.dy], &[op.dx], Backward::<true>),
    });
}
