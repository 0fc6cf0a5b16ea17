//! Packing: a block of an operand becomes panels in which the micro-kernel reads every word in order.
//!
//! A *line* is a row of op(a) or a column of op(b). A panel holds a fixed number of lines; for each step along k it
//! has one 32-bit word per line. A word is one f32, or two bf16 that are neighbours along k.

use crate::backend::cpu::{Element, Kernel, MOST_LANES, Simd, prefetch};
use std::marker::PhantomData;

/// How elements become words.
pub(super) trait Word {
    /// The stored type.
    type Stored: Copy;
    /// Elements along k in one word.
    const ELEMENTS: usize;
    /// LANES words along k of one line, `k >= 1` elements of which exist; words past the end are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `k` elements.
    unsafe fn along<S: Simd>(s: S, p: *const Self::Stored, k: usize) -> S::F;
    /// One word of each of the first LANES of `lines >= 1` lines; `k >= 1` elements along k exist, `stride` apart.
    ///
    /// # Safety
    /// `p`, and `p + stride` if `k > 1`, are valid for reads of min(lines, LANES) elements.
    unsafe fn across<S: Simd>(s: S, p: *const Self::Stored, stride: usize, lines: usize, k: usize) -> S::F;
    /// [`Word::across`] of 2 LANES lines.
    ///
    /// # Safety
    /// As for it.
    #[inline(always)]
    unsafe fn across_two<S: Simd>(s: S, p: *const Self::Stored, stride: usize, k: usize) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { [Self::across(s, p, stride, S::LANES, k), Self::across(s, p.add(S::LANES), stride, S::LANES, k)] }
    }
}

/// One element, widened to f32.
pub(super) struct Single<T>(PhantomData<T>);

impl<T: Element> Word for Single<T> {
    type Stored = T;
    const ELEMENTS: usize = 1;
    #[inline(always)]
    unsafe fn along<S: Simd>(s: S, p: *const T, k: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { T::load_up_to(s, p, k) }
    }
    #[inline(always)]
    unsafe fn across<S: Simd>(s: S, p: *const T, _stride: usize, lines: usize, _k: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { T::load_up_to(s, p, lines) }
    }
}

/// Two 16-bit elements, the one with the lower k in the low half.
pub(super) struct Pair;

impl Word for Pair {
    type Stored = u16;
    const ELEMENTS: usize = 2;
    #[inline(always)]
    unsafe fn along<S: Simd>(s: S, p: *const u16, k: usize) -> S::F {
        // SAFETY: 2 * LANES elements are LANES words; fewer are copied to where LANES words can be read.
        unsafe {
            if k >= 2 * S::LANES {
                return s.load(p.cast());
            }
            let mut words = [0f32; 16];
            std::ptr::copy_nonoverlapping(p, words.as_mut_ptr().cast::<u16>(), k);
            s.load(words.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn across<S: Simd>(s: S, p: *const u16, stride: usize, lines: usize, k: usize) -> S::F {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe {
            let low = half_words(s, p, lines);
            (low, if k > 1 { half_words(s, p.add(stride), lines) } else { s.splat_i(0) })
        };
        s.of_bits(s.or(low, s.shl::<16>(high)))
    }
    #[inline(always)]
    unsafe fn across_two<S: Simd>(s: S, p: *const u16, stride: usize, k: usize) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            if k > 1 {
                return s.interleave_u16(p, p.add(stride));
            }
            [Self::across(s, p, stride, S::LANES, k), Self::across(s, p.add(S::LANES), stride, S::LANES, k)]
        }
    }
}

/// The first LANES of `lines` elements, each in the low half of a word.
///
/// # Safety
/// `p` is valid for reads of min(lines, LANES) elements.
#[inline(always)]
unsafe fn half_words<S: Simd>(s: S, p: *const u16, lines: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { if lines >= S::LANES { s.load_u16(p) } else { s.load_u16_partial(p, lines) } }
}

/// Rows of the source that are asked for before they are read.
const AHEAD: usize = 32;

/// Packs `lines` lines of `k` elements into panels.
pub(super) struct Pack<W: Word> {
    /// The element of the first line at the first k.
    pub(super) source: *const W::Stored,
    /// Whether neighbours along k are contiguous; else neighbouring lines are.
    pub(super) along_k: bool,
    /// Elements from line to line if `along_k`, else from k to k.
    pub(super) stride: usize,
    /// Lines to pack.
    pub(super) lines: usize,
    /// Elements along k to pack.
    pub(super) k: usize,
    /// Lines of a full panel.
    pub(super) panel_lines: usize,
    /// Words per step of a panel: `panel_lines` rounded up to LANES.
    pub(super) panel_width: usize,
    /// The panels: [`panel_words`] words each.
    pub(super) panels: *mut f32,
}

/// Words of a panel with `k` words per line: a whole number of transposed blocks.
pub(super) fn panel_words(k: usize, width: usize) -> usize {
    k.next_multiple_of(16) * width
}

impl<W: Word> Kernel for Pack<W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.k.div_ceil(W::ELEMENTS);
        let size = panel_words(steps, self.panel_width);
        for (index, first) in (0..self.lines).step_by(self.panel_lines).enumerate() {
            let lines = self.panel_lines.min(self.lines - first);
            // SAFETY: panel `index` lies in `panels`, and its `lines` lines of the source exist.
            unsafe {
                let panel = self.panels.add(index * size);
                if self.along_k {
                    self.transpose(s, self.source.add(first * self.stride), lines, panel);
                } else {
                    // Whole vectors: lines of the next panel do no harm in places that nothing reads.
                    self.copy(s, self.source.add(first), self.panel_width.min(self.lines - first), panel);
                }
            }
        }
    }
}

impl<W: Word> Pack<W> {
    /// Packs the lines of a panel that are contiguous along k.
    ///
    /// # Safety
    /// `lines` lines of k elements can be read at `source`, and the panel written.
    #[inline(always)]
    unsafe fn transpose<S: Simd>(&self, s: S, source: *const W::Stored, lines: usize, panel: *mut f32) {
        for column in (0..self.panel_width).step_by(S::LANES) {
            // SAFETY: the lines from `column` on, if there are any; panels hold whole vectors.
            unsafe {
                let panel = panel.add(column);
                if column < lines {
                    self.transpose_vector(s, source.add(column * self.stride), lines - column, panel);
                } else {
                    (0..self.k.div_ceil(W::ELEMENTS))
                        .for_each(|step| s.store(panel.add(step * self.panel_width), s.splat(0.0)));
                }
            }
        }
    }

    /// Packs the first LANES of `lines >= 1` lines that are contiguous along k.
    ///
    /// # Safety
    /// The lines' k elements can be read at `source`, and the panel written.
    #[inline(always)]
    unsafe fn transpose_vector<S: Simd>(&self, s: S, source: *const W::Stored, lines: usize, panel: *mut f32) {
        for k in (0..self.k).step_by(S::LANES * W::ELEMENTS) {
            // SAFETY: lines past the last repeat it, so every read is inside; panels hold whole blocks.
            unsafe {
                let block = panel.add(k / W::ELEMENTS * self.panel_width);
                let mut rows = [s.splat(0.0); MOST_LANES];
                for (line, row) in rows.iter_mut().enumerate().take(S::LANES) {
                    *row = W::along(s, source.add(line.min(lines - 1) * self.stride + k), self.k - k);
                    // The next lines: the hardware does not foresee so many streams.
                    prefetch(source.wrapping_add((line + S::LANES) * self.stride + k));
                }
                s.transpose(&mut rows);
                for (step, &words) in rows.iter().enumerate().take(S::LANES) {
                    s.store(block.add(step * self.panel_width), words);
                }
            }
        }
    }

    /// Packs the lines of a panel that are neighbours in memory.
    ///
    /// # Safety
    /// As for `transpose`.
    #[inline(always)]
    unsafe fn copy<S: Simd>(&self, s: S, source: *const W::Stored, lines: usize, panel: *mut f32) {
        // SAFETY: the lines from `column` on, if there are any; panels hold whole vectors.
        unsafe {
            if lines == self.panel_width && lines.is_multiple_of(2 * S::LANES) {
                return self.copy_all(s, source, panel);
            }
            for column in (0..self.panel_width).step_by(S::LANES) {
                let panel = panel.add(column);
                for (step, k) in (0..self.k).step_by(W::ELEMENTS).enumerate() {
                    let words = if column < lines {
                        let source = source.add(k * self.stride + column);
                        W::across(s, source, self.stride, lines - column, self.k - k)
                    } else {
                        // Nothing reads these sums, but stale bits here could be slow denormals.
                        s.splat(0.0)
                    };
                    s.store(panel.add(step * self.panel_width), words);
                }
            }
        }
    }

    /// [`Self::copy`] of a panel's width of lines: at each k all of them, since a row of the matrix may be gone from the
    /// cache when the next vector of lines would come back to it.
    ///
    /// # Safety
    /// As for `transpose`.
    #[inline(always)]
    unsafe fn copy_all<S: Simd>(&self, s: S, source: *const W::Stored, panel: *mut f32) {
        for (step, k) in (0..self.k).step_by(W::ELEMENTS).enumerate() {
            self.ask_ahead(source, k);
            for column in (0..self.panel_width).step_by(2 * S::LANES) {
                // SAFETY: the caller's promise.
                unsafe {
                    let source = source.add(k * self.stride + column);
                    let [low, high] = W::across_two(s, source, self.stride, self.k - k);
                    let to = panel.add(step * self.panel_width + column);
                    s.store(to, low);
                    s.store(to.add(S::LANES), high);
                }
            }
        }
    }

    /// Asks for the rows of the source that are read [`AHEAD`] rows after row `k`: they lie pages apart, which the
    /// hardware does not foresee.
    #[inline(always)]
    fn ask_ahead(&self, source: *const W::Stored, k: usize) {
        for row in k..k + W::ELEMENTS {
            prefetch(source.wrapping_add((row + AHEAD) * self.stride));
        }
    }
}
