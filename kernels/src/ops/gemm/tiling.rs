//! How a product is cut into rectangles of c, one a task, and what each worker keeps of packed operands. The bits of c do not
//! depend on it.

use super::multiply::Geometry;
use super::pack::panel_words;
use super::product::Product;

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
/// Rectangles per worker that are worth cutting for; smaller ones cost little when both operands are kept.
const TASKS_PER_WORKER: usize = 2;
const KEPT_TASKS_PER_WORKER: usize = 6;
/// Lines that a worker packs to keep at a time, or a little fewer.
const GROUP_LINES: usize = 128;

/// Words of packed operands that each of so many workers keeps at most.
pub(super) fn most_kept(workers: usize) -> usize {
    ((8 << 20) / workers).clamp(1 << 19, 2 << 20)
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

/// The rectangles, and the workspace in words.
pub(super) struct Tiling {
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
        let (mut all_a, mut all_b) = (false, false);
        if product.batches() == 1 {
            let fits = |width: usize| width.saturating_mul(depth) <= kept;
            all_a = a_width <= b_width && fits(a_width) || fits(a_width.saturating_add(b_width));
            all_b = a_width > b_width && fits(b_width) || fits(a_width.saturating_add(b_width));
        }
        let (most_rows, most_columns, tasks) = match (all_a, all_b) {
            (true, true) => (MOST_KEPT, MOST_KEPT, KEPT_TASKS_PER_WORKER),
            (true, false) => (MOST_LONG, MOST_KEPT, TASKS_PER_WORKER),
            (false, true) => (MOST_KEPT, MOST_LONG, TASKS_PER_WORKER),
            (false, false) => (MOST_OWN, MOST_OWN, TASKS_PER_WORKER),
        };
        let side = |extent: usize, pieces: usize, unit: usize| extent.div_ceil(pieces).next_multiple_of(unit);
        let (mut down, mut across) = (m.div_ceil(most_rows), n.div_ceil(most_columns));
        let (mut rows, mut columns);
        loop {
            rows = side(m, down, geometry.rows);
            columns = side(n, across, geometry.columns);
            let rectangles = m.div_ceil(rows) * n.div_ceil(columns) * product.batches();
            if workers == 1 || rectangles >= tasks * workers || rows.max(columns) < 2 * LEAST_SIDE {
                break;
            }
            if rows >= columns { down += 1 } else { across += 1 }
        }
        let block = depth.min(BLOCK);
        let keep = |all: bool, extent: usize, width: usize, unit: usize, own: usize| {
            let group = GROUP_LINES / unit * unit;
            let flags = if all { extent.div_ceil(group) * depth.div_ceil(BLOCK) } else { 0 };
            Kept { all, width, group, flags, words: if all { width * depth } else { own } }
        };
        let own = |lines: usize, unit: usize, width: usize| lines / unit * panel_words(block, width);
        let a = keep(all_a, m, a_width, geometry.rows, own(rows, geometry.rows, geometry.width));
        let b = keep(all_b, n, b_width, geometry.columns, own(columns, geometry.columns, geometry.columns));
        Tiling {
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
