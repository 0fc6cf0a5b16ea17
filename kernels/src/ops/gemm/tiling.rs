//! How a product is cut into rectangles of c, one a task, and what each worker keeps of packed operands. The bits of c do not
//! depend on it.

use super::multiply::Geometry;
use super::pack::panel_words;
use super::product::Product;
use std::ops::Range;

/// Words of k in a block: a panel of a (16 KiB) stays in the first-level cache while panels of b stream past it.
const BLOCK: usize = 256;
/// Largest rectangle of a task that packs its own blocks; with BLOCK it makes them stay in the second-level cache.
const MOST_OWN: usize = 512;
/// Largest side of a rectangle whose other operand is kept: its own blocks are packed once for so much of the other.
const MOST_LONG: usize = 1024;
/// Largest side of a rectangle whose own blocks are kept, and columns that are gone through at a time: the block of b stays
/// in the second-level cache beside panels of a that are used once.
const MOST_KEPT: usize = 256;
/// Rectangles are not cut below this many rows and columns for the sake of parallelism.
const LEAST_SIDE: usize = 96;
/// Rectangles per worker that are worth cutting for.
const TASKS_PER_WORKER: usize = 2;
/// Panels that a worker packs to keep at a time.
const GROUP: usize = 8;
/// Multiplications below which nothing is kept.
const LEAST_KEPT_WORK: usize = 1 << 24;

/// Words of packed operands that each of so many workers keeps at most.
pub(super) fn most_kept(workers: usize) -> usize {
    ((8 << 20) / workers).clamp(1 << 19, 5 << 19)
}

/// How elements become words, and words tiles.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) geometry: Geometry,
    /// Elements along k in one word.
    pub(super) elements: usize,
}

impl Format {
    /// Elements of k in a block.
    pub(super) fn block(&self) -> usize {
        BLOCK * self.elements
    }
}

/// What a worker packs of an operand.
pub(super) struct Kept {
    /// Whether all of it is kept; else there is room for a block of a rectangle.
    pub(super) all: bool,
    /// Words per step of all panels.
    pub(super) width: usize,
    /// Lines that are packed at a time if they are kept.
    pub(super) group: usize,
    /// Groups of all blocks, if they are kept.
    pub(super) flags: usize,
    pub(super) words: usize,
}

/// Piece `i` of `pieces` of an extent: whole units, as many in all pieces, one more or less.
pub(super) fn piece(extent: usize, unit: usize, i: usize, pieces: usize) -> Range<usize> {
    let units = extent.div_ceil(unit);
    i * units / pieces * unit..((i + 1) * units / pieces * unit).min(extent)
}

/// Multiplications of a product of one matrix; 0 of a batch, of which nothing is kept.
fn work(product: &Product) -> usize {
    if product.batches() == 1 { product.m.saturating_mul(product.n).saturating_mul(product.k) } else { 0 }
}

/// The rectangles, and the workspace in words.
pub(super) struct Tiling {
    /// Rectangles in a column, and in a row, of c.
    pub(super) down: usize,
    pub(super) across: usize,
    /// Rows and columns of the largest.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) a: Kept,
    pub(super) b: Kept,
    pub(super) flag_words: usize,
    /// Of a rectangle.
    pub(super) sum_words: usize,
    bias_words: usize,
    workers: usize,
}

impl Tiling {
    /// More workers get smaller rectangles. Each keeps `kept` words of operands at most.
    pub(super) fn new(product: &Product, format: Format, workers: usize, kept: usize) -> Tiling {
        let Product { m, n, k, .. } = *product;
        let Format { geometry, elements } = format;
        let (a_width, b_width) = (m.div_ceil(geometry.rows) * geometry.width, n.next_multiple_of(geometry.columns));
        let depth = k.div_ceil(elements).next_multiple_of(16);
        // Whether an extent can be cut so that every worker has rectangles along all of the other extent.
        let strips =
            |extent: usize, other: usize| other <= MOST_LONG && extent >= TASKS_PER_WORKER * workers * LEAST_SIDE;
        let (all_a, all_b) = if work(product) < LEAST_KEPT_WORK {
            (false, false)
        } else {
            let fits = |width: usize| width.saturating_mul(depth) <= kept;
            match (fits(a_width), fits(b_width)) {
                (_, true) if n <= m && strips(m, n) => (false, true),
                (true, _) if m < n && strips(n, m) => (true, false),
                _ if fits(a_width.saturating_add(b_width)) => (true, true),
                (a, b) => (a && a_width <= b_width && strips(n, 0), b && b_width < a_width && strips(m, 0)),
            }
        };
        let (most_rows, most_columns) = match (all_a, all_b) {
            (true, true) => (MOST_KEPT, MOST_KEPT),
            (true, false) => (MOST_LONG, MOST_KEPT),
            (false, true) => (MOST_KEPT, MOST_LONG),
            (false, false) => (MOST_OWN, MOST_OWN),
        };
        let side = |extent: usize, pieces: usize, unit: usize| extent.div_ceil(unit).div_ceil(pieces) * unit;
        // As many for each worker, since they take as long.
        let pieces = |extent: usize, most: usize| match extent.div_ceil(most) {
            pieces if extent >= workers * LEAST_SIDE => pieces.next_multiple_of(workers),
            pieces => pieces,
        };
        let (mut down, mut across) = (m.div_ceil(most_rows), n.div_ceil(most_columns));
        if all_b && (!all_a || m >= n) {
            down = pieces(m, most_rows);
        } else if all_a {
            across = pieces(n, most_columns);
        }
        let (mut rows, mut columns);
        loop {
            rows = side(m, down, geometry.rows);
            columns = side(n, across, geometry.columns);
            let enough = down * across * product.batches() >= TASKS_PER_WORKER * workers;
            if workers == 1 || enough || rows.max(columns) < 2 * LEAST_SIDE {
                break;
            }
            match (all_a, all_b) {
                (true, false) => across += workers,
                (false, true) => down += workers,
                _ if rows >= columns => down += 1,
                _ => across += 1,
            }
        }
        let block = depth.min(BLOCK);
        let keep = |all: bool, extent: usize, width: usize, unit: usize, own: usize| {
            let group = GROUP * unit;
            if !all {
                return Kept { all, width, group, flags: 0, words: own };
            }
            Kept { all, width, group, flags: extent.div_ceil(group) * depth.div_ceil(BLOCK), words: width * depth }
        };
        let own = |lines: usize, unit: usize, width: usize| lines / unit * panel_words(block, width);
        let a = keep(all_a, m, a_width, geometry.rows, own(rows, geometry.rows, geometry.width));
        let b = keep(all_b, n, b_width, geometry.columns, own(columns, geometry.columns, geometry.columns));
        Tiling {
            down,
            across,
            rows,
            columns,
            flag_words: (a.flags + b.flags).div_ceil(size_of::<f32>()).next_multiple_of(16),
            a,
            b,
            sum_words: rows * columns,
            bias_words: columns.next_multiple_of(16),
            workers,
        }
    }

    /// Where the scratch of a worker begins: after 64 bits of each.
    pub(super) fn own(&self, worker: usize) -> usize {
        let own = self.flag_words + self.a.words + self.b.words + self.sum_words + self.bias_words;
        (2 * self.workers).next_multiple_of(16) + worker * own.next_multiple_of(16)
    }

    /// Words of the workspace.
    pub(super) fn words(&self) -> usize {
        self.own(self.workers)
    }

    /// Columns that a task goes through at a time.
    pub(super) fn group(&self) -> usize {
        if self.b.all { self.columns.min(MOST_KEPT) } else { self.columns }
    }
}
