//! The product of packed panels, tile by tile in registers.

use super::epilogue::Target;
use super::pack::panel_words;
use crate::backend::cpu::{Kernel, Simd, prefetch, prefetch_to_write};
use std::ops::Range;

/// Bytes.
const CACHE_LINE: usize = 64;

/// Rows and columns of the tile that a level keeps in registers.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    /// Rows of a tile; a panel of a holds as many lines.
    pub(super) rows: usize,
    /// Columns of a tile; a panel of b holds as many lines.
    pub(super) columns: usize,
    /// Words per step of a panel of a: `rows` rounded up to whole vectors.
    pub(super) width: usize,
}

impl Geometry {
    /// One per [`Simd::REGISTERS`]. Sums, the vectors of b and one word of a fill the registers.
    pub(super) const ALL: [Geometry; 3] = [
        Geometry { rows: 14, columns: 32, width: 16 },
        Geometry { rows: 6, columns: 16, width: 8 },
        Geometry { rows: 4, columns: 8, width: 8 },
    ];
}

/// Asks a level for its tile.
pub(super) struct Ask;

impl Kernel for Ask {
    type Output = Geometry;
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) -> Geometry {
        Geometry::ALL[match S::REGISTERS {
            32 => 0,
            16 => 1,
            _ => 2,
        }]
    }
}

/// Words from the panels of a tile to those to ask for meanwhile; 0: none.
#[derive(Clone, Copy)]
struct Ahead {
    a: usize,
    b: usize,
}

/// Adds the product of packed blocks of a and b to the sums. With `PAIRS` words are pairs of bf16.
pub(super) struct Multiply<const PAIRS: bool> {
    /// Panels of a.
    pub(super) a: *const f32,
    /// Panels of b.
    pub(super) b: *const f32,
    /// Words along k.
    pub(super) k: usize,
    /// Lines of a.
    pub(super) rows: usize,
    /// Lines of b.
    pub(super) columns: usize,
    /// Sums: tile after tile, those of one panel of a together, each in row-major order.
    pub(super) sums: *mut f32,
    /// Whether the sums hold earlier blocks; else they are written first.
    pub(super) accumulate: bool,
    /// Whether the panels of a, and those of b, were packed for an earlier task: they may be far away.
    pub(super) kept: [bool; 2],
    /// Where the rows will be stored next, and bytes of an element there.
    pub(super) stored: [Option<Target>; 2],
    pub(super) size: usize,
}

impl<const PAIRS: bool> Kernel for Multiply<PAIRS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::REGISTERS {
            32 => self.tiles::<S, 14, 2>(s),
            16 => self.tiles::<S, 6, 2>(s),
            _ => self.tiles::<S, 4, 1>(s),
        }
    }
}

impl<const PAIRS: bool> Multiply<PAIRS> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(self, s: S) {
        let width = ROWS.next_multiple_of(S::LANES);
        let columns = VECTORS * S::LANES;
        let (a_panel, b_panel) = (panel_words(self.k, width), panel_words(self.k, columns));
        let mut sums = self.sums;
        for (i, row) in (0..self.rows).step_by(ROWS).enumerate() {
            let left = self.rows - row;
            for j in 0..self.columns.div_ceil(columns) {
                // SAFETY: the panels and the sums hold every tile.
                unsafe {
                    let (a, b) = (self.a.add(i * a_panel), self.b.add(j * b_panel));
                    let ahead = Ahead {
                        a: if self.kept[0] && j == 0 { a_panel } else { 0 },
                        b: if self.kept[1] && i == 0 { b_panel } else { 0 },
                    };
                    self.ask_for_stored(row..row + ROWS.min(left), j * columns..(j + 1) * columns);
                    // A panel with few lines takes a tile with few rows.
                    if left > 8 && ROWS > 8 {
                        self.tile::<S, ROWS, VECTORS>(s, a, b, width, sums, ahead);
                    } else if left > 4 && ROWS > 4 {
                        if ROWS > 8 {
                            self.tile::<S, 8, VECTORS>(s, a, b, width, sums, ahead);
                        } else {
                            self.tile::<S, ROWS, VECTORS>(s, a, b, width, sums, ahead);
                        }
                    } else if left > 2 {
                        self.tile::<S, 4, VECTORS>(s, a, b, width, sums, ahead);
                    } else {
                        self.tile::<S, 2, VECTORS>(s, a, b, width, sums, ahead);
                    }
                    sums = sums.add(ROWS * columns);
                }
            }
        }
    }

    /// Asks for the lines in which a tile will be stored: while it is computed they have time to come.
    #[inline(always)]
    fn ask_for_stored(&self, rows: Range<usize>, columns: Range<usize>) {
        for target in self.stored.iter().flatten() {
            for row in rows.clone() {
                for byte in (columns.start * self.size..columns.end * self.size).step_by(CACHE_LINE) {
                    prefetch_to_write(target.data.wrapping_add(row * target.stride * self.size + byte));
                }
            }
        }
    }

    /// One tile. Each sum is its own chain over k, so its bits do not depend on the tile it falls in.
    ///
    /// # Safety
    /// The panels hold k steps and the sums a tile.
    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        s: S,
        mut a: *const f32,
        mut b: *const f32,
        width: usize,
        sums: *mut f32,
        ahead: Ahead,
    ) {
        let mut tile = [[s.splat(0.0); VECTORS]; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for _ in 0..self.k {
                let mut y = [s.splat(0.0); VECTORS];
                if ahead.a != 0 {
                    prefetch(a.wrapping_add(ahead.a));
                }
                if ahead.b != 0 {
                    for v in 0..VECTORS {
                        prefetch(b.wrapping_add(ahead.b + v * S::LANES));
                    }
                }
                for (v, y) in y.iter_mut().enumerate() {
                    *y = s.load(b.add(v * S::LANES));
                }
                for (r, sums) in tile.iter_mut().enumerate() {
                    let x = s.splat(*a.add(r));
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum = if PAIRS { s.dot_bf16(x, y, *sum) } else { s.fast_fma(x, y, *sum) };
                    }
                }
                a = a.add(width);
                b = b.add(VECTORS * S::LANES);
            }
            for (r, row) in tile.iter().enumerate() {
                for (v, &sum) in row.iter().enumerate() {
                    let p = sums.add((r * VECTORS + v) * S::LANES);
                    s.store(p, if self.accumulate { s.add(s.load(p), sum) } else { sum });
                }
            }
        }
    }
}
