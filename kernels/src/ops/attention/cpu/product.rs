//! Products of tiles with their sums in registers.
//!
//! The reduction runs over words of 32 bits: one f32, or two bf16 that are neighbours in the reduction. One factor is
//! broadcast a word at a time from wherever it lies, the other is read as vectors of words.

use super::{ROWS, with_vectors};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd, math};

/// How words are multiplied.
pub(super) trait Product: Copy + Send + Sync + 'static {
    /// Elements of the reduction in a word.
    const PAIR: usize;

    /// Runs `kernel` with the instructions for the product.
    fn dispatch<K: Kernel>(cpu: &Cpu<'_>, kernel: K) -> K::Output;

    /// c + a b.
    fn dot<S: Simd>(s: S, a: S::F, b: S::F, c: S::F) -> S::F;

    /// 2^x for x <= 0, as the weights and their sum need it.
    fn exp2<S: Simd>(s: S, x: S::F) -> S::F;

    /// 2^x for x <= 0, as weights need it.
    fn rough_exp2<S: Simd>(s: S, x: S::F) -> S::F;

    /// LANES words of a row from word `i`.
    ///
    /// # Safety
    /// `row` is valid for reads of these words.
    unsafe fn load<S: Simd, E: Element>(s: S, row: *const E, i: usize) -> S::F;

    /// `n < LANES` words of a row from word `i`; the other lanes are 0.
    ///
    /// # Safety
    /// `row` is valid for reads of these words.
    unsafe fn load_partial<S: Simd, E: Element>(s: S, row: *const E, i: usize, n: usize) -> S::F;
}

/// Words of one f32.
#[derive(Clone, Copy)]
pub(super) struct Single;

/// Words of two bf16: only for storage of bf16, with the instruction for their dot product.
#[derive(Clone, Copy)]
pub(super) struct Pair;

impl Product for Single {
    const PAIR: usize = 1;

    fn dispatch<K: Kernel>(cpu: &Cpu<'_>, kernel: K) -> K::Output {
        cpu.dispatch(kernel)
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
        s.fast_fma(a, b, c)
    }
    #[inline(always)]
    fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
        math::exp2(s, x)
    }
    #[inline(always)]
    fn rough_exp2<S: Simd>(s: S, x: S::F) -> S::F {
        math::exp2(s, x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd, E: Element>(s: S, row: *const E, i: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { E::load(s, row.add(i)) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd, E: Element>(s: S, row: *const E, i: usize, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { E::load_partial(s, row.add(i), n) }
    }
}

impl Product for Pair {
    const PAIR: usize = 2;

    fn dispatch<K: Kernel>(cpu: &Cpu<'_>, kernel: K) -> K::Output {
        cpu.dispatch_bf16(kernel)
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
        s.dot_bf16(a, b, c)
    }
    #[inline(always)]
    fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
        math::exp2_nonpositive_bf16(s, x)
    }
    #[inline(always)]
    fn rough_exp2<S: Simd>(s: S, x: S::F) -> S::F {
        math::exp2_nonpositive_rough(s, x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd, E: Element>(s: S, row: *const E, i: usize) -> S::F {
        // SAFETY: the caller's promise; the only level with the instruction loads at any alignment.
        unsafe { s.load(row.add(2 * i).cast()) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd, E: Element>(s: S, row: *const E, i: usize, n: usize) -> S::F {
        // SAFETY: as above.
        unsafe { s.load_partial(row.add(2 * i).cast(), n) }
    }
}

/// The factor that is broadcast: words at `row(m) + word * step` bytes.
#[derive(Clone, Copy)]
pub(super) struct Broadcast {
    pub(super) first: *const u8,
    /// Bytes from a row to the next.
    pub(super) row: usize,
    /// Bytes from a word of the reduction to the next.
    pub(super) step: usize,
}

impl Broadcast {
    /// Words of one element the other way: rows become the reduction.
    pub(super) fn across(self) -> Broadcast {
        Broadcast { row: self.step, step: self.row, ..self }
    }
}

/// Sums of a tile of ROWS rows and N vectors, begun with `sums`: word `k` of row `m` is at `a[m] + k * step` bytes, and
/// the vectors of the other factor at `b + k * b_step` words.
///
/// # Safety
/// All of these are valid for reads.
#[inline(always)]
unsafe fn multiply<S: Simd, P: Product, const N: usize>(
    s: S,
    words: usize,
    a: [*const u8; ROWS],
    step: usize,
    b: *const f32,
    b_step: usize,
    mut sums: [[S::F; N]; ROWS],
) -> [[S::F; N]; ROWS] {
    for k in 0..words {
        // SAFETY: the caller's promise.
        unsafe {
            let mut vectors = [s.splat(0.0); N];
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = s.load(b.add(k * b_step + v * S::LANES));
            }
            for (m, row) in sums.iter_mut().enumerate() {
                let word = s.splat(a[m].add(k * step).cast::<f32>().read_unaligned());
                for (sum, vector) in row.iter_mut().zip(vectors) {
                    *sum = P::dot(s, word, vector, *sum);
                }
            }
        }
    }
    sums
}

/// `c = factor * (rows x b)` for `rows` rows of a head and `N` vectors of queries: row `j` of `c` is at `j * c_row`.
/// Rows beyond, up to a multiple of ROWS, are written too.
///
/// # Safety
/// `a` is valid for `rows` rows of `words` words, `b` for `words` rows of N vectors at `b_row`, and `c` for writes of
/// the rows, rounded up.
#[inline(always)]
pub(super) unsafe fn scores<S: Simd, P: Product, const N: usize>(
    s: S,
    rows: usize,
    words: usize,
    a: Broadcast,
    b: *const f32,
    b_row: usize,
    factor: f32,
    c: *mut f32,
    c_row: usize,
) {
    for j in (0..rows).step_by(ROWS) {
        // SAFETY: the caller's promise; rows past the last are read as the last.
        unsafe {
            let mut pointers = [a.first; ROWS];
            for (m, pointer) in pointers.iter_mut().enumerate() {
                *pointer = a.first.add((j + m).min(rows - 1) * a.row);
            }
            let sums = multiply::<S, P, N>(s, words, pointers, a.step, b, b_row, [[s.splat(0.0); N]; ROWS]);
            for (m, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    s.store(c.add((j + m) * c_row + v * S::LANES), s.mul(sum, s.splat(factor)));
                }
            }
        }
    }
}

/// `c = decay * c + a x b` for `rows` (a multiple of ROWS) rows and N vectors; without `decay`, `c += a x b`.
///
/// # Safety
/// `a` is valid for the rows and words, `b` for `words` rows of N vectors at `b_row`, `c` for reads and writes of the
/// rows at `c_row`, and `decay` for N vectors.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, P: Product, const N: usize>(
    s: S,
    rows: usize,
    words: usize,
    a: Broadcast,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    decay: Option<*const f32>,
) {
    for j in (0..rows).step_by(ROWS) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut pointers = [a.first; ROWS];
            let mut sums = [[s.splat(0.0); N]; ROWS];
            for (m, (pointer, row)) in pointers.iter_mut().zip(&mut sums).enumerate() {
                *pointer = a.first.add((j + m) * a.row);
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = s.load(c.add((j + m) * c_row + v * S::LANES));
                    if let Some(decay) = decay {
                        *sum = s.mul(*sum, s.load(decay.add(v * S::LANES)));
                    }
                }
            }
            let sums = multiply::<S, P, N>(s, words, pointers, a.step, b, b_row, sums);
            for (m, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    s.store(c.add((j + m) * c_row + v * S::LANES), sum);
                }
            }
        }
    }
}

/// [`accumulate`] for rows of `width` values, a multiple of LANES.
///
/// # Safety
/// As for [`accumulate`], with `width` values for the vectors.
#[inline(always)]
pub(super) unsafe fn accumulate_rows<S: Simd, P: Product>(
    s: S,
    rows: usize,
    words: usize,
    a: Broadcast,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    width: usize,
) {
    let mut vector = 0;
    while vector < width / S::LANES {
        let n = (width / S::LANES - vector).min(super::vectors::<S>());
        let at = vector * S::LANES;
        // SAFETY: the caller's promise, for n of the vectors.
        unsafe {
            with_vectors!(S, n, N => accumulate::<S, P, N>(s, rows, words, a, b.add(at), b_row, c.add(at), c_row, None));
        }
        vector += n;
    }
}
