//! Storage elements two vectors at a time, so that 16-bit elements fill whole registers of memory.

use super::{Element, Simd};
use crate::dtype::{bf16, f16};

/// An element read and written as pairs of vectors: 2 LANES consecutive elements in an order that is the type's own. A map
/// or a sum over elements need not know the order; parameters that meet them must come in the same one.
pub(crate) trait Paired: Element {
    /// Reads `n < 2 LANES` elements; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    #[inline(always)]
    unsafe fn load_pair_partial<S: Simd>(s: S, p: *const Self, n: usize) -> [S::F; 2] {
        // SAFETY: the caller's promise; nothing is read from the second address unless n exceeds LANES.
        unsafe {
            let second = Self::load_up_to(s, p.wrapping_add(S::LANES), n.saturating_sub(S::LANES));
            [Self::load_up_to(s, p, n), second]
        }
    }
    /// [`Element::store_pair`] of values whose NaNs have no low 16 bits, as those that arithmetic makes or passes on from bf16.
    ///
    /// # Safety
    /// `p` is valid for writes of 2 LANES elements.
    #[inline(always)]
    unsafe fn store_clean_pair<S: Simd>(s: S, p: *mut Self, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { Self::store_pair(s, p, x) }
    }
    /// [`Paired::store_clean_pair`], but that denormals may become zeros.
    ///
    /// # Safety
    /// `p` is valid for writes of 2 LANES elements.
    #[inline(always)]
    unsafe fn store_normal_pair<S: Simd>(s: S, p: *mut Self, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { Self::store_clean_pair(s, p, x) }
    }
    /// Writes the first `n < 2 LANES` elements, as [`Paired::store_clean_pair`].
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    #[inline(always)]
    unsafe fn store_pair_partial<S: Simd>(s: S, p: *mut Self, x: [S::F; 2], n: usize) {
        // SAFETY: the caller's promise; nothing is written to the second address unless n exceeds LANES.
        unsafe {
            Self::store_up_to(s, p, x[0], n);
            Self::store_up_to(s, p.wrapping_add(S::LANES), x[1], n.saturating_sub(S::LANES));
        }
    }
    /// Index of the element in each lane of a pair.
    #[inline(always)]
    fn pair_indices<S: Simd>(s: S) -> [S::I; 2] {
        [s.iota(), s.add_i(s.iota(), s.splat_i(S::LANES as i32))]
    }
}

impl Paired for f32 {}
impl Paired for f16 {}

impl Paired for bf16 {
    #[inline(always)]
    unsafe fn load_pair_partial<S: Simd>(s: S, p: *const bf16, n: usize) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        s.pair_of_words(unsafe { s.load_words_partial(p.cast(), n) })
    }
    #[inline(always)]
    unsafe fn store_clean_pair<S: Simd>(s: S, p: *mut bf16, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { s.store_words(p.cast(), s.words_of_pair(x)) }
    }
    #[inline(always)]
    unsafe fn store_normal_pair<S: Simd>(s: S, p: *mut bf16, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe { s.store_words(p.cast(), s.normal_words_of_pair(x)) }
    }
    #[inline(always)]
    unsafe fn store_pair_partial<S: Simd>(s: S, p: *mut bf16, x: [S::F; 2], n: usize) {
        // SAFETY: the caller's promise.
        unsafe { s.store_words_partial(p.cast(), s.words_of_pair(x), n) }
    }
    #[inline(always)]
    fn pair_indices<S: Simd>(s: S) -> [S::I; 2] {
        let even = s.add_i(s.iota(), s.iota());
        [even, s.add_i(even, s.splat_i(1))]
    }
}

/// Writes a pair in the order of its elements.
///
/// # Safety
/// `p` is valid for writes of 2 LANES elements.
#[inline(always)]
pub(crate) unsafe fn store_in_order<S: Simd, T: Paired>(s: S, p: *mut f32, x: [S::F; 2]) {
    let mut pair = [0.0; 2 * super::MOST_LANES];
    // SAFETY: the array holds two vectors of any level, and `p` as many by the caller's promise.
    unsafe {
        s.store(pair.as_mut_ptr(), x[0]);
        s.store(pair.as_mut_ptr().add(S::LANES), x[1]);
        for i in 0..2 * S::LANES {
            p.add(i).write(pair[if T::INTERLEAVED { i / 2 + i % 2 * S::LANES } else { i }]);
        }
    }
}

/// Reads 2 LANES floats into the order of a pair of `T`.
///
/// # Safety
/// `p` is valid for reads of them.
#[inline(always)]
pub(crate) unsafe fn load_in_order<S: Simd, T: Paired>(s: S, p: *const f32) -> [S::F; 2] {
    let mut pair = [0.0; 2 * super::MOST_LANES];
    // SAFETY: as for store_in_order.
    unsafe {
        for i in 0..2 * S::LANES {
            pair[if T::INTERLEAVED { i / 2 + i % 2 * S::LANES } else { i }] = p.add(i).read();
        }
        [s.load(pair.as_ptr()), s.load(pair.as_ptr().add(S::LANES))]
    }
}
