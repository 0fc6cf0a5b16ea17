//! Tiles rearranged for the products.

use super::product::{Broadcast, Product};
use super::{Rows, queries};
use crate::backend::cpu::{Element, MOST_LANES, Simd};
use crate::dtype::DType;

/// `live` rows of `d` elements as words with queries in the lanes: word `c` of row `i` is `to[c * queries + i]`. Rows
/// past `live` are zero.
///
/// # Safety
/// The rows are valid for reads, `to` for writes of `d / PAIR * queries` values.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd, P: Product, E: Element>(
    s: S,
    rows: Rows<E>,
    live: usize,
    d: usize,
    to: *mut f32,
) {
    let (words, width) = (d / P::PAIR, queries::<S>());
    for first in (0..live).step_by(S::LANES) {
        for c in (0..words).step_by(S::LANES) {
            let mut block = [s.splat(0.0); MOST_LANES];
            for (i, row) in block.iter_mut().enumerate().take(S::LANES.min(live - first)) {
                let (from, n) = (rows.row(first + i), words - c);
                // SAFETY: a live row, and words inside it.
                *row = unsafe { if n >= S::LANES { P::load(s, from, c) } else { P::load_partial(s, from, c, n) } };
            }
            s.transpose(&mut block);
            for (j, column) in block.into_iter().enumerate().take(S::LANES.min(words - c)) {
                // SAFETY: word c + j of queries first to first + LANES.
                unsafe { s.store(to.add((c + j) * width + first), column) }
            }
        }
    }
}

/// `live` columns of `d` values, with queries in the lanes, as rows: column `i` times `factor[i]` is stored as row `i`.
///
/// # Safety
/// `from` is valid for reads of `d * queries` values and `factor` of as many as the block's vectors, the rows for
/// writes.
#[inline(always)]
pub(super) unsafe fn store_transposed<S: Simd, E: Element>(
    s: S,
    from: *const f32,
    factor: *const f32,
    rows: Rows<E>,
    live: usize,
    d: usize,
) {
    let width = queries::<S>();
    for first in (0..live).step_by(S::LANES) {
        // SAFETY: a vector of the block.
        let factor = unsafe { s.load(factor.add(first)) };
        for c in (0..d).step_by(S::LANES) {
            let mut block = [s.splat(0.0); MOST_LANES];
            for (i, row) in block.iter_mut().enumerate().take(S::LANES.min(d - c)) {
                // SAFETY: value c + i of a vector of the block.
                *row = unsafe { s.mul(s.load(from.add((c + i) * width + first)), factor) };
            }
            s.transpose(&mut block);
            for (j, column) in block.into_iter().enumerate().take(S::LANES.min(live - first)) {
                // SAFETY: a live row, and elements inside it.
                unsafe { store_row(s, rows.row(first + j).add(c), column, d - c) }
            }
        }
    }
}

/// The first `n` lanes, or all of them when there are fewer.
///
/// # Safety
/// `to` is valid for writes of these.
#[inline(always)]
pub(super) unsafe fn store_row<S: Simd, E: Element>(s: S, to: *mut E, x: S::F, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if n >= S::LANES {
            E::store(s, to, x);
        } else {
            E::store_partial(s, to, x, n);
        }
    }
}

/// LANES elements of a row, or the `n` that are left.
///
/// # Safety
/// `from` is valid for reads of these.
#[inline(always)]
pub(super) unsafe fn load_row<S: Simd, E: Element>(s: S, from: *const E, n: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { if n >= S::LANES { E::load(s, from) } else { E::load_partial(s, from, n) } }
}

/// The bits of LANES 16-bit elements of a row, or of the `n` that are left.
///
/// # Safety
/// `from` is valid for reads of these.
#[inline(always)]
unsafe fn load_bits<S: Simd, E: Element>(s: S, from: *const E, n: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { if n >= S::LANES { s.load_u16(from.cast()) } else { s.load_u16_partial(from.cast(), n) } }
}

/// `n` rows of `d` elements as words whose reduction runs over the rows: row `r` of `to`, `width` words long, holds rows
/// `r PAIR ..` of the input. Words past `d`, up to a multiple of LANES, and rows past `n` that share a word are zero.
///
/// # Safety
/// The rows are valid for reads, `to` for writes of `n / PAIR` rows, rounded up; `width` is at least `d` rounded up to
/// LANES.
#[inline(always)]
pub(super) unsafe fn words<S: Simd, P: Product, E: Element>(
    s: S,
    rows: Rows<E>,
    n: usize,
    d: usize,
    to: *mut f32,
    width: usize,
) {
    for r in 0..n.div_ceil(P::PAIR) {
        for c in (0..d).step_by(S::LANES) {
            // SAFETY: rows below n, elements below d.
            unsafe {
                let word = if P::PAIR == 1 {
                    load_row(s, rows.row(r).add(c), d - c)
                } else {
                    let low = load_bits(s, rows.row(2 * r).add(c), d - c);
                    let mut high = s.splat_i(0);
                    if 2 * r + 1 < n {
                        high = load_bits(s, rows.row(2 * r + 1).add(c), d - c);
                    }
                    s.of_bits(s.or(low, s.shl::<16>(high)))
                };
                s.store(to.add(r * width + c), word);
            }
        }
    }
}

/// Rows of a head as the factor that is broadcast along their elements: where they lie when they are words already,
/// else widened into `scratch`, whose rows are `width` words long.
///
/// # Safety
/// As for [`words`]; the result lives as long as the rows and the scratch.
#[inline(always)]
pub(super) unsafe fn along_rows<S: Simd, P: Product, E: Element>(
    s: S,
    rows: Rows<E>,
    n: usize,
    d: usize,
    scratch: *mut f32,
    width: usize,
) -> Broadcast {
    if P::PAIR == 2 || E::DTYPE == DType::F32 {
        return Broadcast { first: rows.first.cast(), row: rows.stride * size_of::<E>(), step: 4 };
    }
    // SAFETY: the caller's promise.
    unsafe { words::<S, P, E>(s, rows, n, d, scratch, width) };
    Broadcast { first: scratch.cast(), row: width * 4, step: 4 }
}

/// Rows of a head as the factor that is broadcast along the rows: row `c` of the product is element `c` of each.
///
/// # Safety
/// As for [`along_rows`].
#[inline(always)]
pub(super) unsafe fn across_rows<S: Simd, P: Product, E: Element>(
    s: S,
    rows: Rows<E>,
    n: usize,
    d: usize,
    scratch: *mut f32,
    width: usize,
) -> Broadcast {
    if P::PAIR == 1 {
        // SAFETY: the caller's promise.
        return unsafe { along_rows::<S, P, E>(s, rows, n, d, scratch, width) }.across();
    }
    // SAFETY: the caller's promise.
    unsafe { words::<S, P, E>(s, rows, n, d, scratch, width) };
    Broadcast { first: scratch.cast(), row: 4, step: width * 4 }
}

/// Whether all elements of `n` rows are finite.
///
/// # Safety
/// The rows are valid for reads.
#[inline(always)]
pub(super) unsafe fn all_finite<S: Simd, E: Element>(s: S, rows: Rows<E>, n: usize, d: usize) -> bool {
    // x * 0 is 0 for finite x, else NaN.
    let zero = s.splat(0.0);
    let mut sums = [zero; 2];
    for i in 0..n {
        for (block, c) in (0..d).step_by(S::LANES).enumerate() {
            // SAFETY: a row below n, elements below d.
            let x = unsafe { load_row(s, rows.row(i).add(c), d - c) };
            sums[block % 2] = s.fast_fma(x, zero, sums[block % 2]);
        }
    }
    s.nonfinite_bits(s.add(sums[0], sums[1])) == 0
}
