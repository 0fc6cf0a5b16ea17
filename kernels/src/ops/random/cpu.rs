//! Four blocks of Philox words at a time become numbers before they are put in order: Box-Muller pairs words 0 and 1,
//! 2 and 3 of a block, which then are whole vectors.

use super::{Distribution, Random, largest_below};
use crate::backend::cpu::elementwise::{RandomMap, elementwise_random};
use crate::backend::cpu::math::{log_same_bits, sin_cos_turn};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::with_float;

pub(super) fn run(op: &Random<'_>, cpu: &Cpu<'_>) {
    let (key, first, y) = (op.key, op.first_index, &[op.y]);
    with_float!(op.y.dtype(), T => match op.distribution {
        Distribution::Uniform { low, high } => {
            let uniform = Uniform { low, range: high - low, limit: largest_below(T::DTYPE, high) };
            elementwise_random::<(), (T,)>(cpu, &[], y, key, first, uniform);
        }
        Distribution::Normal { mean, deviation } => {
            elementwise_random::<(), (T,)>(cpu, &[], y, key, first, Normal { mean, deviation });
        }
    });
}

struct Uniform {
    low: f32,
    range: f32,
    limit: f32,
}

impl<T: Element> RandomMap<(), (T,)> for Uniform {
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (): (), random: S::I) -> (S::F,) {
        let u = s.mul(s.to_f(s.shr::<8>(random)), s.splat(1.0 / (1 << 24) as f32));
        let x = s.fma(u, s.splat(self.range), s.splat(self.low));
        (s.min(x, s.splat(self.limit)),)
    }
}

struct Normal {
    mean: f32,
    deviation: f32,
}

impl<T: Element> RandomMap<(), (T,)> for Normal {
    #[inline(always)]
    fn draw<S: Simd>(&self, s: S, words: [S::I; 4]) -> [S::I; 4] {
        let (a, b) = box_muller(s, words[0], words[1]);
        let (c, d) = box_muller(s, words[2], words[3]);
        [s.bits(a), s.bits(b), s.bits(c), s.bits(d)]
    }

    #[inline(always)]
    fn map<S: Simd>(&self, s: S, (): (), random: S::I) -> (S::F,) {
        (s.fma(s.of_bits(random), s.splat(self.deviation), s.splat(self.mean)),)
    }
}

/// Two independent standard normal numbers from two words.
#[inline(always)]
fn box_muller<S: Simd>(s: S, a: S::I, b: S::I) -> (S::F, S::F) {
    let half = 1.0 / (1u64 << 32) as f32;
    let u = s.fma(s.to_f(s.shr::<1>(a)), s.splat(2.0 * half), s.splat(half));
    let r = s.sqrt(s.mul(s.splat(-2.0), log_same_bits(s, u)));
    let (sin, cos) = sin_cos_turn(s, b);
    (s.mul(r, cos), s.mul(r, sin))
}
