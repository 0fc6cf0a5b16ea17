//! Loops over the elements of a row: whole vectors, then a part of one.

use super::pair::Paired;
use super::{Element, Simd};

/// Which lanes of a vector a step of [`each_vector`] covers, or which elements of a pair of vectors one of [`each_pair`].
pub(crate) trait Span: Copy {
    /// Reads the covered lanes from `p` on; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of the covered elements.
    unsafe fn load<S: Simd, T: Element>(self, s: S, p: *const T) -> S::F;
    /// Writes the covered lanes from `p` on.
    ///
    /// # Safety
    /// `p` is valid for writes of the covered elements.
    unsafe fn store<S: Simd, T: Element>(self, s: S, p: *mut T, x: S::F);
    /// x in the covered lanes, `other` in the others.
    fn keep<S: Simd>(self, s: S, x: S::F, other: f32) -> S::F;
    /// Reads the covered elements of a pair of vectors; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of the covered elements.
    unsafe fn load_pair<S: Simd, T: Paired>(self, s: S, p: *const T) -> [S::F; 2];
    /// Writes the covered elements of a pair of vectors, as [`Paired::store_clean_pair`] or, where denormals may become zeros,
    /// [`Paired::store_normal_pair`].
    ///
    /// # Safety
    /// `p` is valid for writes of the covered elements.
    unsafe fn store_pair<S: Simd, T: Paired, const NORMAL: bool>(self, s: S, p: *mut T, x: [S::F; 2]);
    /// The covered elements of a pair of `T`, and 0 for the others.
    fn keep_pair<S: Simd, T: Paired>(self, s: S, x: [S::F; 2]) -> [S::F; 2];
    /// Reads the covered bf16 as words: two in each lane; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of the covered elements.
    unsafe fn load_words<S: Simd>(self, s: S, p: *const u16) -> S::I;
}

/// All of them.
#[derive(Clone, Copy)]
pub(crate) struct Whole;

/// The first ones, fewer than all.
#[derive(Clone, Copy)]
pub(crate) struct Part(pub(crate) usize);

impl Span for Whole {
    #[inline(always)]
    unsafe fn load<S: Simd, T: Element>(self, s: S, p: *const T) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { T::load(s, p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd, T: Element>(self, s: S, p: *mut T, x: S::F) {
        // SAFETY: the caller's promise.
        unsafe { T::store(s, p, x) }
    }
    #[inline(always)]
    fn keep<S: Simd>(self, _s: S, x: S::F, _other: f32) -> S::F {
        x
    }
    #[inline(always)]
    unsafe fn load_pair<S: Simd, T: Paired>(self, s: S, p: *const T) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { T::load_pair(s, p) }
    }
    #[inline(always)]
    unsafe fn store_pair<S: Simd, T: Paired, const NORMAL: bool>(self, s: S, p: *mut T, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { if NORMAL { T::store_normal_pair(s, p, x) } else { T::store_clean_pair(s, p, x) } }
    }
    #[inline(always)]
    fn keep_pair<S: Simd, T: Paired>(self, _s: S, x: [S::F; 2]) -> [S::F; 2] {
        x
    }
    #[inline(always)]
    unsafe fn load_words<S: Simd>(self, s: S, p: *const u16) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.load_words(p) }
    }
}

impl Span for Part {
    #[inline(always)]
    unsafe fn load<S: Simd, T: Element>(self, s: S, p: *const T) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { T::load_partial(s, p, self.0) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd, T: Element>(self, s: S, p: *mut T, x: S::F) {
        // SAFETY: the caller's promise.
        unsafe { T::store_partial(s, p, x, self.0) }
    }
    #[inline(always)]
    fn keep<S: Simd>(self, s: S, x: S::F, other: f32) -> S::F {
        let covered = s.gt_i(s.splat_i(self.0 as i32), s.iota());
        s.select(covered, x, s.splat(other))
    }
    #[inline(always)]
    unsafe fn load_pair<S: Simd, T: Paired>(self, s: S, p: *const T) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { T::load_pair_partial(s, p, self.0) }
    }
    #[inline(always)]
    unsafe fn store_pair<S: Simd, T: Paired, const NORMAL: bool>(self, s: S, p: *mut T, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { T::store_pair_partial(s, p, x, self.0) }
    }
    #[inline(always)]
    fn keep_pair<S: Simd, T: Paired>(self, s: S, x: [S::F; 2]) -> [S::F; 2] {
        let (n, indices, zero) = (s.splat_i(self.0 as i32), T::pair_indices(s), s.splat(0.0));
        [s.select(s.gt_i(n, indices[0]), x[0], zero), s.select(s.gt_i(n, indices[1]), x[1], zero)]
    }
    #[inline(always)]
    unsafe fn load_words<S: Simd>(self, s: S, p: *const u16) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.load_words_partial(p, self.0) }
    }
}

/// Vectors that a step of an unrolled [`each_vector`] takes: as many sums hide the latency of an addition.
pub(crate) const UNROLL: usize = 4;

/// Runs `$body` for each vector of `$n` elements, with `$at` the index of its first element and `$span` its [`Span`].
/// The form with `$k` takes [`UNROLL`] vectors a turn, `$k` counting them, so that each can have its own sum.
///
/// A macro, because a closure is not certain to be inlined and so compiled for the SIMD level.
macro_rules! each_vector {
    ($S:ty, $n:expr, |$at:ident, $span:ident| $body:expr) => {{
        let n: usize = $n;
        let whole = n - n % <$S>::LANES;
        let mut $at = 0;
        while $at < whole {
            let $span = $crate::backend::cpu::span::Whole;
            $body;
            $at += <$S>::LANES;
        }
        if whole < n {
            let $span = $crate::backend::cpu::span::Part(n - whole);
            $body;
        }
    }};
    ($S:ty, $n:expr, |$at:ident, $span:ident, $k:ident| $body:expr) => {{
        use $crate::backend::cpu::span::UNROLL;
        let n: usize = $n;
        let step = UNROLL * <$S>::LANES;
        let unrolled = n - n % step;
        let mut base = 0;
        while base < unrolled {
            for $k in 0..UNROLL {
                let $at = base + $k * <$S>::LANES;
                let $span = $crate::backend::cpu::span::Whole;
                $body;
            }
            base += step;
        }
        let $k = 0;
        while base + <$S>::LANES <= n {
            let $at = base;
            let $span = $crate::backend::cpu::span::Whole;
            $body;
            base += <$S>::LANES;
        }
        if base < n {
            let $at = base;
            let $span = $crate::backend::cpu::span::Part(n - base);
            $body;
        }
    }};
}
pub(crate) use each_vector;

/// [`each_vector`] over pairs of vectors, 2 LANES elements a step, from the start of `$range` on.
macro_rules! each_pair {
    ($S:ty, $range:expr, |$at:ident, $span:ident| $body:expr) => {{
        let range: std::ops::Range<usize> = $range;
        let mut $at = range.start;
        while range.end - $at >= 2 * <$S>::LANES {
            let $span = $crate::backend::cpu::span::Whole;
            $body;
            $at += 2 * <$S>::LANES;
        }
        if $at < range.end {
            let $span = $crate::backend::cpu::span::Part(range.end - $at);
            $body;
        }
    }};
    ($S:ty, $range:expr, |$at:ident, $span:ident, $k:ident| $body:expr) => {{
        use $crate::backend::cpu::span::UNROLL;
        let range: std::ops::Range<usize> = $range;
        let step = 2 * <$S>::LANES;
        let mut base = range.start;
        while range.end - base >= UNROLL * step {
            for $k in 0..UNROLL {
                let $at = base + $k * step;
                let $span = $crate::backend::cpu::span::Whole;
                $body;
            }
            base += UNROLL * step;
        }
        let $k = 0;
        while range.end - base >= step {
            let $at = base;
            let $span = $crate::backend::cpu::span::Whole;
            $body;
            base += step;
        }
        if base < range.end {
            let $at = base;
            let $span = $crate::backend::cpu::span::Part(range.end - base);
            $body;
        }
    }};
}
pub(crate) use each_pair;

/// The sum of all lanes of all `sums`.
#[inline(always)]
pub(crate) fn total<S: Simd>(s: S, sums: [S::F; UNROLL]) -> f32 {
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
