//! Loops over the elements of a row: whole vectors, then a part of one.

use super::{Element, Simd};

/// Which lanes of a vector a step of [`each_vector`] covers.
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
}

/// All lanes.
#[derive(Clone, Copy)]
pub(crate) struct Whole;

/// The first lanes, fewer than LANES.
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

/// The sum of all lanes of all `sums`.
#[inline(always)]
pub(crate) fn total<S: Simd>(s: S, sums: [S::F; UNROLL]) -> f32 {
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
