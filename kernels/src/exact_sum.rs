//! Order-independent sums: a fixed-point superaccumulator that holds any sum of f64 values exactly (Neal 2015, "Fast
//! exact summation using small and large superaccumulators").
//!
//! The accumulator is a 67-limb integer in units of 2^-1074, the smallest f64: its value is the sum of
//! limb\[i\] 2^(32 i - 1074). Adding integers commutes, so any order, any split over threads or ranks, and any
//! `all_reduce(i64, sum)` of the 68 words give the same sum.
//!
//! **Blocks.** Elements enter by blocks of [`BLOCK`] = 256, counted by element index from the start of the tensor
//! (the last block may be short). A block is summed in f64 in this order, with the terms of a short block's missing
//! elements 0: partial sums p\[j\] = (((0 + t\[j\]) + t\[16 + j\]) + …) + t\[240 + j\] for j = 0, …, 15; then
//! p\[j\] + p\[j + 8\] for j < 8, of those the halves again (distances 4, 2, 1). A term is x, or x * x, which is exact in
//! f64. Terms of elements that are not finite are 0, and such elements are counted. The block's sum then enters the
//! accumulator exactly.
//!
//! **Carries.** Each [`Accumulator::add`] changes a limb by less than 2^32, and a carried accumulator's limbs (but the
//! last, which holds the sign and cannot fill up) lie in \[0, 2^32). So at most 2^31 - 1 values or carried accumulators may
//! be added, in any mix, between two [`Accumulator::carry`]. Operations leave accumulators in memory carried: their
//! 68 words are a function of the exact value alone.

use crate::backend::cpu::span::{Span, each_vector};
use crate::backend::cpu::{Cpu, Element, Simd};
use crate::view::{View, runs};
use std::ops::Range;

/// Limbs of an accumulator.
pub const LIMBS: usize = 67;
/// 64-bit words of an accumulator in memory: the limbs, then the count of values that were not finite.
pub const WORDS: usize = LIMBS + 1;
/// Elements of a block.
pub const BLOCK: usize = 256;

/// Partial sums of a block.
const PARTIALS: usize = 16;

/// An exact sum, and the count of values that were not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Accumulator {
    /// The limbs, lowest first, then the count.
    pub words: [i64; WORDS],
}

impl Default for Accumulator {
    fn default() -> Accumulator {
        Accumulator::ZERO
    }
}

impl Accumulator {
    /// The empty sum.
    pub const ZERO: Accumulator = Accumulator { words: [0; WORDS] };

    /// Adds `x` exactly; counts it instead when it is not finite.
    #[inline(always)]
    pub fn add(&mut self, x: f64) {
        let bits = x.to_bits();
        let exponent = (bits >> 52) & 0x7ff;
        if exponent == 0x7ff {
            self.words[LIMBS] = self.words[LIMBS].wrapping_add(1);
            return;
        }
        let mantissa = (bits & ((1 << 52) - 1)) | (u64::from(exponent != 0) << 52);
        let shift = exponent.max(1) - 1;
        let limb = (shift / 32) as usize;
        let wide = u128::from(mantissa) << (shift % 32);
        let sign = (bits as i64) >> 63;
        for k in 0..3 {
            let piece = (wide >> (32 * k)) as u32;
            let word = &mut self.words[limb + k];
            *word = word.wrapping_add((i64::from(piece) ^ sign) - sign);
        }
    }

    /// Counts `n` values that are not finite.
    #[inline(always)]
    pub fn add_nonfinite(&mut self, n: u64) {
        self.words[LIMBS] = self.words[LIMBS].wrapping_add(n as i64);
    }

    /// Adds another accumulator.
    pub fn merge(&mut self, other: &Accumulator) {
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a = a.wrapping_add(*b);
        }
    }

    /// Makes the words a function of the exact value: every limb but the last in \[0, 2^32).
    pub fn carry(&mut self) {
        for i in 0..LIMBS - 1 {
            let carry = self.words[i] >> 32;
            self.words[i] &= 0xffff_ffff;
            self.words[i + 1] = self.words[i + 1].wrapping_add(carry);
        }
    }

    /// The sum, rounded once: nearest f64, ties to even, infinite past the largest. An exact 0 is +0.
    pub fn sum(&self) -> f64 {
        let mut magnitude = *self;
        magnitude.carry();
        let negative = magnitude.words[LIMBS - 1] < 0;
        if negative {
            magnitude.words[..LIMBS].iter_mut().for_each(|limb| *limb = limb.wrapping_neg());
            magnitude.carry();
        }
        let limbs = &magnitude.words[..LIMBS];
        let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else { return 0.0 };
        let highest = 32 * top + (limbs[top] as u64).ilog2() as usize;
        // Bits at and above `low` are kept: 53 of them, or all where the sum has fewer.
        let low = highest.saturating_sub(52);
        let limb = |i: usize| limbs.get(i).map_or(0, |l| *l as u128);
        let window = |from: usize| {
            let i = from / 32;
            ((limb(i) | limb(i + 1) << 32 | limb(i + 2) << 64) >> (from % 32)) as u64
        };
        // The exponent field and the mantissa's hidden bit add up; below 2^53 units the count of units is the encoding.
        let mut bits = ((low as u64) << 52) + (window(low) & ((1 << 53) - 1));
        if low > 0 {
            let half = window(low - 1) & 1 == 1;
            let at = low - 1;
            let rest = limbs[..at / 32].iter().any(|l| *l != 0) || limb(at / 32) & ((1 << (at % 32)) - 1) != 0;
            bits += u64::from(half && (rest || bits & 1 == 1));
        }
        let magnitude = if low >= 2046 { f64::INFINITY } else { f64::from_bits(bits) };
        if negative { -magnitude } else { magnitude }
    }

    /// How many values were not finite.
    pub fn nonfinite(&self) -> u64 {
        self.words[LIMBS] as u64
    }
}

/// What the terms of a sum are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// The element.
    Value,
    /// Its square.
    Square,
}

/// Per-worker accumulators in an operation's workspace.
pub(crate) struct WorkerSums {
    first: *mut Accumulator,
    workers: usize,
}

// SAFETY: each worker uses its own accumulator.
unsafe impl Sync for WorkerSums {}

impl WorkerSums {
    /// Bytes from one worker's accumulator to the next: whole cache lines.
    const STRIDE: usize = size_of::<Accumulator>().next_multiple_of(64);

    /// Bytes of workspace for this many workers.
    pub(crate) fn workspace(workers: usize) -> usize {
        workers * WorkerSums::STRIDE
    }

    /// Empty accumulators at the start of the workspace.
    pub(crate) fn new(cpu: &Cpu<'_>) -> WorkerSums {
        let workers = cpu.workers();
        let sums = WorkerSums { first: cpu.workspace(WorkerSums::workspace(workers)).cast(), workers };
        // SAFETY: the workspace is aligned to 64 bytes and has the accumulators' size.
        (0..workers).for_each(|worker| unsafe { sums.at(worker).write(Accumulator::ZERO) });
        sums
    }

    #[inline(always)]
    fn at(&self, worker: usize) -> *mut Accumulator {
        debug_assert!(worker < self.workers);
        self.first.cast::<u8>().wrapping_add(worker * WorkerSums::STRIDE).cast()
    }

    /// The accumulator of `worker`.
    ///
    /// # Safety
    /// No one else uses this worker's accumulator while the reference lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn of(&self, worker: usize) -> &mut Accumulator {
        // SAFETY: `new` made every worker's accumulator; the caller's promise.
        unsafe { &mut *self.at(worker) }
    }

    /// The sum over all workers, carried.
    pub(crate) fn total(self) -> Accumulator {
        let mut total = Accumulator::ZERO;
        for worker in 0..self.workers {
            // SAFETY: `self` is consumed: all workers have returned.
            total.merge(unsafe { self.of(worker) });
        }
        total.carry();
        total
    }
}

/// Adds elements `range` of `x`, whose dtype is `E`, to `accumulator`. The range starts at a block.
#[inline(always)]
pub(crate) fn add_elements<S: Simd, E: Element>(
    s: S,
    accumulator: &mut Accumulator,
    x: &View<'_>,
    range: Range<usize>,
    term: Term,
) {
    debug_assert!(range.start.is_multiple_of(BLOCK) && x.dtype() == E::DTYPE);
    let width = x.width();
    let mut start = range.start;
    // The row that the last division found: its first element's index and address.
    let (mut row_start, mut row) = (0, std::ptr::null::<E>());
    while start < range.end {
        let end = range.end.min(start + BLOCK);
        if row.is_null() || start - row_start >= width {
            row_start = start - start % width;
            row = x.row_ptr::<E>(start / width);
        }
        let column = start - row_start;
        if column + (end - start) <= width {
            // SAFETY: the block lies in this row.
            unsafe { add_block(s, accumulator, row.add(column), end - start, term) };
        } else {
            let mut block = [0.0f32; BLOCK];
            gather::<S, E>(s, x, start..end, &mut block);
            // SAFETY: the array has end - start <= BLOCK elements.
            unsafe { add_block(s, accumulator, block.as_ptr(), end - start, term) };
        }
        start = end;
    }
}

/// Copies elements `range` of `x` to the start of `block`.
#[inline(always)]
fn gather<S: Simd, E: Element>(s: S, x: &View<'_>, range: Range<usize>, block: &mut [f32; BLOCK]) {
    let mut to = 0;
    for (row, column, len) in runs(x.width(), range) {
        each_vector!(S, len, |at, span| {
            // SAFETY: the run lies in this row, and inside the block: a range is at most a block.
            unsafe {
                let vector = span.load(s, x.row_ptr::<E>(row).add(column + at));
                span.store(s, block.as_mut_ptr().add(to + at), vector);
            }
        });
        to += len;
    }
}

/// Adds the block of `n <= 256` elements at `x` to `accumulator`, as the module says.
///
/// # Safety
/// `x` is valid for reads of `n` elements.
#[inline(always)]
pub unsafe fn add_block<S: Simd, E: Element>(s: S, accumulator: &mut Accumulator, x: *const E, n: usize, term: Term) {
    // SAFETY: the caller's promise.
    let sum = unsafe { block_sum(s, x, n, term, |x| x) };
    // A finite f32 and its square are far inside f64's range, so only an element that is not finite makes the sum so.
    if sum.is_finite() {
        return accumulator.add(sum);
    }
    let mut nonfinite = 0;
    let zero = s.splat(0.0);
    // SAFETY: the caller's promise.
    let sum = unsafe {
        block_sum(s, x, n, term, |x| {
            nonfinite += u64::from(s.nonfinite_bits(x).count_ones());
            s.select(s.le(s.abs(x), s.splat(f32::MAX)), x, zero)
        })
    };
    accumulator.add_nonfinite(nonfinite);
    accumulator.add(sum);
}

/// The sum of `term` of `f(x)` over a block.
#[inline(always)]
unsafe fn block_sum<S: Simd, E: Element>(
    s: S,
    x: *const E,
    n: usize,
    term: Term,
    mut f: impl FnMut(S::F) -> S::F,
) -> f64 {
    debug_assert!(n <= BLOCK && PARTIALS.is_multiple_of(S::LANES));
    let mut partial = Partials::new(s);
    let mut at = 0;
    if n == BLOCK {
        // Of fixed length, so that the compiler unrolls it.
        while at < BLOCK {
            // SAFETY: LANES divides BLOCK.
            partial.add(s, at % PARTIALS, f(unsafe { E::load(s, x.add(at)) }), term);
            at += S::LANES;
        }
        return partial.sum(s);
    }
    while at + PARTIALS <= n {
        for lane in (0..PARTIALS).step_by(S::LANES) {
            // SAFETY: at + lane + LANES <= at + PARTIALS <= n.
            partial.add(s, lane, f(unsafe { E::load(s, x.add(at + lane)) }), term);
        }
        at += PARTIALS;
    }
    for lane in (0..PARTIALS).step_by(S::LANES) {
        if at + lane >= n {
            break;
        }
        let left = n - at - lane;
        // SAFETY: `left` elements are left from here, and no more than them are read.
        let vector = unsafe {
            if left >= S::LANES { E::load(s, x.add(at + lane)) } else { E::load_partial(s, x.add(at + lane), left) }
        };
        partial.add(s, lane, f(vector), term);
    }
    partial.sum(s)
}

/// The sixteen partial sums of a block: one vector of f64 lanes or two.
struct Partials<S: Simd>([S::D; 2]);

impl<S: Simd> Partials<S> {
    #[inline(always)]
    fn new(s: S) -> Partials<S> {
        Partials([s.zero_d(), s.zero_d()])
    }

    /// Adds the terms of `x` to the partial sums from `lane`.
    #[inline(always)]
    fn add(&mut self, s: S, lane: usize, x: S::F, term: Term) {
        let partial = &mut self.0[lane / S::LANES];
        *partial = match term {
            Term::Value => s.add_widened(*partial, x),
            Term::Square => s.add_squared(*partial, x),
        };
    }

    #[inline(always)]
    fn sum(self, s: S) -> f64 {
        s.sum_sixteen(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rng(u64);

    impl Rng {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31)
        }
        /// Any finite f64, half of the time with an exponent near another value's so that they cancel.
        fn value(&mut self) -> f64 {
            loop {
                let mut bits = self.next();
                if self.next() & 1 == 0 {
                    bits = (bits & !(0x7ff << 52)) | ((1000 + self.next() % 60) << 52);
                }
                if f64::from_bits(bits).is_finite() {
                    return f64::from_bits(bits);
                }
            }
        }
    }

    /// The reference: one bit per element of a two's complement integer, schoolbook.
    fn reference(values: &[f64]) -> f64 {
        const BITS: usize = 2240;
        let mut total = vec![false; BITS];
        for &x in values {
            let bits = x.to_bits();
            let field = (bits >> 52 & 0x7ff) as usize;
            let mantissa = (bits & ((1 << 52) - 1)) | if field > 0 { 1 << 52 } else { 0 };
            let mut term = vec![false; BITS];
            for b in 0..53 {
                term[field.max(1) - 1 + b] = mantissa >> b & 1 == 1;
            }
            if x.is_sign_negative() {
                negate(&mut term);
            }
            add(&mut total, &term);
        }
        let negative = total[BITS - 1];
        if negative {
            negate(&mut total);
        }
        let Some(highest) = total.iter().rposition(|b| *b) else { return 0.0 };
        let low = highest.saturating_sub(52);
        let mut mantissa = (low..=highest).rev().fold(0u64, |m, b| m << 1 | u64::from(total[b]));
        if low > 0 && total[low - 1] && (mantissa & 1 == 1 || total[..low - 1].iter().any(|b| *b)) {
            mantissa += 1;
        }
        // 2^(low - 1074) in two exact factors.
        let scale = low as i32 - 1074;
        let power = |e: i32| f64::powi(2.0, e);
        let x = if scale < -1000 {
            mantissa as f64 * power(-1000) * power(scale + 1000)
        } else {
            mantissa as f64 * power(scale)
        };
        if negative { -x } else { x }
    }

    fn add(a: &mut [bool], b: &[bool]) {
        let mut carry = false;
        for (a, &b) in a.iter_mut().zip(b) {
            let ones = u8::from(*a) + u8::from(b) + u8::from(carry);
            (*a, carry) = (ones & 1 == 1, ones > 1);
        }
    }

    fn negate(a: &mut [bool]) {
        a.iter_mut().for_each(|b| *b = !*b);
        let mut one = vec![false; a.len()];
        one[0] = true;
        add(a, &one);
    }

    fn exact(values: &[f64]) -> Accumulator {
        let mut accumulator = Accumulator::ZERO;
        values.iter().for_each(|x| accumulator.add(*x));
        accumulator
    }

    #[test]
    fn sums_are_those_of_exact_arithmetic_rounded_once() {
        let mut rng = Rng(1);
        for n in [0, 1, 2, 3, 5, 10, 40] {
            for _ in 0..60 {
                let values: Vec<f64> = (0..n).map(|_| rng.value()).collect();
                let (actual, expected) = (exact(&values).sum(), reference(&values));
                assert_eq!(actual.to_bits(), expected.to_bits(), "{values:?}: {actual:e}, expected {expected:e}");
            }
        }
    }

    #[test]
    fn hard_cases() {
        let tiny = f64::from_bits(1);
        let below = f64::from_bits(f64::MIN_POSITIVE.to_bits() - 1);
        for (values, expected) in [
            (vec![], 0.0),
            (vec![-0.0], 0.0),
            (vec![1.0, -1.0], 0.0),
            (vec![tiny], tiny),
            (vec![-tiny, -tiny], -2.0 * tiny),
            (vec![below, tiny], f64::MIN_POSITIVE),
            (vec![below, below], 2.0 * below),
            (vec![f64::MAX], f64::MAX),
            (vec![f64::MAX, f64::MAX], f64::INFINITY),
            (vec![-f64::MAX, -f64::MAX, -f64::MAX], f64::NEG_INFINITY),
            (vec![f64::MAX, f64::MAX, -f64::MAX], f64::MAX),
            // Half a unit past the largest rounds to infinity, just below it does not.
            (vec![f64::MAX, 2f64.powi(970)], f64::INFINITY),
            (vec![f64::MAX, 2f64.powi(970), -tiny], f64::MAX),
            (vec![1.0, 2f64.powi(-53)], 1.0),
            (vec![1.0, 2f64.powi(-53), tiny], 1.0 + f64::EPSILON),
            (vec![1.0 + f64::EPSILON, 2f64.powi(-53)], 1.0 + 2.0 * f64::EPSILON),
            (vec![-1.0, -(2f64.powi(-53)), -tiny], -1.0 - f64::EPSILON),
            (vec![2.0 - f64::EPSILON, 2f64.powi(-53)], 2.0),
            (vec![1e300, 1.0, -1e300], 1.0),
        ] {
            assert_eq!(exact(&values).sum().to_bits(), expected.to_bits(), "{values:?}");
        }
        let accumulator = exact(&[f64::NAN, 1.0, f64::INFINITY, f64::NEG_INFINITY]);
        assert_eq!((accumulator.sum(), accumulator.nonfinite()), (1.0, 3));
    }

    #[test]
    fn any_permutation_and_any_split_give_the_same_words() {
        let mut rng = Rng(2);
        let mut values: Vec<f64> = (0..500).map(|_| rng.value()).collect();
        let mut expected = exact(&values);
        expected.carry();
        for _ in 0..50 {
            for i in (1..values.len()).rev() {
                values.swap(i, (rng.next() % (i as u64 + 1)) as usize);
            }
            let mut merged = Accumulator::ZERO;
            let mut rest = &values[..];
            while !rest.is_empty() {
                let (part, next) = rest.split_at(1 + (rng.next() % rest.len() as u64) as usize);
                let mut accumulator = exact(part);
                if rng.next() & 1 == 0 {
                    accumulator.carry();
                }
                merged.merge(&accumulator);
                rest = next;
            }
            merged.carry();
            assert_eq!(merged, expected);
        }
    }

    #[test]
    fn carrying_changes_no_value_and_leaves_small_limbs() {
        let mut rng = Rng(3);
        for _ in 0..200 {
            let values: Vec<f64> = (0..30).map(|_| rng.value()).collect();
            let mut accumulator = exact(&values);
            let sum = accumulator.sum();
            accumulator.carry();
            assert_eq!(accumulator.sum().to_bits(), sum.to_bits());
            assert!(accumulator.words[..LIMBS - 1].iter().all(|l| (0..1 << 32).contains(l)));
        }
    }

    #[test]
    fn limbs_hold_as_many_additions_as_documented() {
        // The largest change per addition, in the direction of the limb's sign, after a carry.
        let largest = f64::from_bits((33 << 52) - 1);
        let mut one = exact(&[largest]);
        let per_add = *one.words.iter().max().unwrap();
        assert!(per_add < 1 << 32);
        assert!(((1i64 << 32) - 1).checked_add(per_add.checked_mul((1 << 31) - 1).unwrap()).is_some());
        // 2^31 - 1 additions of it at once.
        let n = (1i64 << 31) - 1;
        one.words.iter_mut().for_each(|w| *w *= n);
        let sum = one.sum();
        assert_eq!(sum, largest * n as f64);
    }
}
