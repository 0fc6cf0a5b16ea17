//! Cuts c into tasks, one rectangle each. A task packs the blocks of a and b that it needs, one block of k at a time,
//! into scratch of its worker, sums in f32 there, and stores once at the end.

use super::epilogue::{Epilogue, Target};
use super::multiply::{Ask, Geometry, Multiply};
use super::pack::{Pack, Pair, Single, Word, panel_words};
use super::product::{Matrix, Product};
use super::{Compute, Gemm};
use crate::backend::cpu::{Cpu, Level};
use crate::dtype::{DType, bf16, f16};
use std::ops::Range;

/// Words of k in a block: a panel of a (16 KiB) stays in the first-level cache while panels of b stream past it.
const BLOCK: usize = 256;
/// Largest rectangle of a task; with BLOCK it makes the packed blocks stay in the second-level cache.
const MOST_ROWS: usize = 512;
const MOST_COLUMNS: usize = 512;
/// Rectangles are not cut below this many rows and columns for the sake of parallelism.
const LEAST_SIDE: usize = 96;
/// Rectangles per worker that are worth cutting for.
const TASKS_PER_WORKER: usize = 2;

/// The rectangles, and a worker's scratch for one, in words.
struct Tiling {
    rows: usize,
    columns: usize,
    a_words: usize,
    b_words: usize,
    sum_words: usize,
    bias_words: usize,
}

impl Tiling {
    /// More workers get smaller rectangles; the bits of c do not depend on them.
    fn new(product: &Product, geometry: Geometry, workers: usize) -> Tiling {
        let side = |extent: usize, pieces: usize, unit: usize| extent.div_ceil(pieces).next_multiple_of(unit);
        let (mut down, mut across) = (product.m.div_ceil(MOST_ROWS), product.n.div_ceil(MOST_COLUMNS));
        let (mut rows, mut columns);
        loop {
            rows = side(product.m, down, geometry.rows);
            columns = side(product.n, across, geometry.columns);
            let tasks = product.m.div_ceil(rows) * product.n.div_ceil(columns) * product.batches();
            if workers == 1 || tasks >= TASKS_PER_WORKER * workers || rows.max(columns) < 2 * LEAST_SIDE {
                break;
            }
            if rows >= columns { down += 1 } else { across += 1 }
        }
        let steps = product.k.min(BLOCK);
        Tiling {
            rows,
            columns,
            a_words: rows / geometry.rows * panel_words(steps, geometry.width),
            b_words: columns / geometry.columns * panel_words(steps, geometry.columns),
            sum_words: rows * columns,
            bias_words: columns.next_multiple_of(16),
        }
    }

    fn words(&self) -> usize {
        (self.a_words + self.b_words + self.sum_words + self.bias_words).next_multiple_of(16)
    }
}

/// Enough for every level.
pub(super) fn workspace(gemm: &Gemm<'_>, workers: usize) -> usize {
    if gemm.c.numel() == 0 {
        return 0;
    }
    let product = Product::new(gemm);
    let words = Geometry::ALL.map(|geometry| Tiling::new(&product, geometry, workers).words());
    words.into_iter().max().unwrap_or(0) * size_of::<f32>() * workers
}

/// Runs on `workspace`.
///
/// # Safety
/// It is aligned to [`Cpu::WORKSPACE_ALIGNMENT`], has `workspace(gemm, cpu.workers())` bytes and no other user.
pub(super) unsafe fn run(gemm: &Gemm<'_>, cpu: &Cpu<'_>, workspace: *mut u8) {
    if gemm.c.numel() == 0 {
        return;
    }
    let product = Product::new(gemm);
    let geometry = cpu.dispatch(Ask);
    let tiling = Tiling::new(&product, geometry, cpu.workers());
    let down = product.m.div_ceil(tiling.rows);
    let across = product.n.div_ceil(tiling.columns);
    let scratch = workspace.cast();
    let task = Task { gemm, cpu, product: &product, geometry, tiling: &tiling, down, across, scratch };
    // SAFETY: parallel_for runs each index once and gives a worker's number to one body at a time.
    cpu.parallel_for(down * across * product.batches(), |index, worker| unsafe { task.run(index, worker) });
}

struct Task<'a> {
    gemm: &'a Gemm<'a>,
    cpu: &'a Cpu<'a>,
    product: &'a Product,
    geometry: Geometry,
    tiling: &'a Tiling,
    /// Rectangles in a column, and in a row, of c.
    down: usize,
    across: usize,
    scratch: *mut f32,
}

// SAFETY: the scratch is divided among the workers, and the matrices are shared for reading or in disjoint rectangles.
unsafe impl Sync for Task<'_> {}

/// A block of an operand to pack.
struct Lines {
    source: *const u8,
    along_k: bool,
    stride: usize,
    lines: usize,
    panel_lines: usize,
    panel_width: usize,
}

/// Packed blocks of a rectangle, and its sums.
struct Block {
    a: *const f32,
    b: *const f32,
    /// Words along k.
    k: usize,
    columns: usize,
    sums: *mut f32,
    accumulate: bool,
    stored: [Option<Target>; 2],
    /// Whether words are pairs of bf16.
    pairs: bool,
}

impl Task<'_> {
    /// Computes rectangle `index`.
    ///
    /// # Safety
    /// No one else uses the rectangle or the worker's scratch.
    unsafe fn run(&self, index: usize, worker: usize) {
        let (product, tiling, gemm) = (self.product, self.tiling, self.gemm);
        let (batch, index) = (index / (self.down * self.across), index % (self.down * self.across));
        let batch = product.batch_index(batch);
        // Tasks that share the block of the larger operand follow each other.
        let (i, j) = if product.n > product.m {
            (index % self.down, index / self.down)
        } else {
            (index / self.across, index % self.across)
        };
        let (row, column) = (i * tiling.rows, j * tiling.columns);
        let (rows, columns) = (tiling.rows.min(product.m - row), tiling.columns.min(product.n - column));
        // SAFETY: all parts lie inside the worker's scratch, and all addresses inside the matrices.
        unsafe {
            let a_panels = self.scratch.add(worker * tiling.words());
            let b_panels = a_panels.add(tiling.a_words);
            let sums = b_panels.add(tiling.b_words);
            let bias = sums.add(tiling.sum_words);
            let pairs = self.cpu.level() == Level::Avx512Bf16
                && gemm.a.dtype() == DType::BF16
                && gemm.compute == Compute::Default;
            if let Some(view) = &gemm.bias {
                self.cpu.dispatch(super::epilogue::Widen { view, first: column, count: columns, to: bias });
            }
            let target = |matrix: &Matrix| Target { data: matrix.at(batch, row, column), stride: matrix.row_stride };
            let epilogue = Epilogue {
                sums,
                geometry: self.geometry,
                rows,
                columns,
                alpha: gemm.alpha,
                beta: gemm.beta,
                bias: gemm.bias.is_some().then_some(bias.cast_const()),
                activation: gemm.activation,
                size: gemm.c.dtype().size(),
                c: target(&product.c),
                pre_activation: product.pre_activation.as_ref().map(target),
            };
            let block = if pairs { 2 * BLOCK } else { BLOCK };
            let mut k = 0;
            loop {
                let depth = block.min(product.k - k);
                let (a, b) = (&product.a, &product.b);
                let a_lines = Lines {
                    source: if gemm.transpose_a { a.at(batch, k, row) } else { a.at(batch, row, k) },
                    along_k: !gemm.transpose_a,
                    stride: a.row_stride,
                    lines: rows,
                    panel_lines: self.geometry.rows,
                    panel_width: self.geometry.width,
                };
                let b_lines = Lines {
                    source: if gemm.transpose_b { b.at(batch, column, k) } else { b.at(batch, k, column) },
                    along_k: gemm.transpose_b,
                    stride: b.row_stride,
                    lines: columns,
                    panel_lines: self.geometry.columns,
                    panel_width: self.geometry.columns,
                };
                self.pack(a_lines, depth, pairs, a_panels);
                self.pack(b_lines, depth, pairs, b_panels);
                let words = if pairs { depth.div_ceil(2) } else { depth };
                let block = Block {
                    a: a_panels,
                    b: b_panels,
                    k: words,
                    columns,
                    sums,
                    accumulate: k > 0,
                    stored: [None; 2],
                    pairs,
                };
                k += depth;
                if k < product.k {
                    self.multiply(&block, 0..rows);
                    continue;
                }
                // The last block completes the sums: those of a panel are stored while they are in the cache.
                for first in (0..rows).step_by(self.geometry.rows) {
                    let panel = first..(first + self.geometry.rows).min(rows);
                    let epilogue = epilogue.part(panel.clone());
                    let stored = [Some(epilogue.c), epilogue.pre_activation];
                    self.multiply(&Block { stored, ..block }, panel);
                    epilogue.store(gemm.c.dtype(), self.cpu);
                }
                break;
            }
        }
    }

    /// Adds the products of `rows`, from a multiple of a panel's rows on, of packed blocks to their sums.
    ///
    /// # Safety
    /// The panels and sums hold the rows.
    unsafe fn multiply(&self, block: &Block, rows: Range<usize>) {
        let Block { b, k, columns, accumulate, stored, pairs, .. } = *block;
        let panel = rows.start / self.geometry.rows;
        let tiles = columns.div_ceil(self.geometry.columns);
        // SAFETY: the panels and sums of these rows.
        let (a, sums) = unsafe {
            let a = block.a.add(panel * panel_words(k, self.geometry.width));
            (a, block.sums.add(panel * tiles * self.geometry.rows * self.geometry.columns))
        };
        let (rows, size) = (rows.len(), self.gemm.c.dtype().size());
        if pairs {
            self.cpu.dispatch_bf16(Multiply::<true> { a, b, k, rows, columns, sums, accumulate, stored, size });
        } else {
            self.cpu.dispatch(Multiply::<false> { a, b, k, rows, columns, sums, accumulate, stored, size });
        }
    }

    /// Packs `k` elements of each line as words of the operands' dtype.
    ///
    /// # Safety
    /// The lines can be read, and the panels written.
    unsafe fn pack(&self, lines: Lines, k: usize, pairs: bool, panels: *mut f32) {
        match self.gemm.a.dtype() {
            DType::BF16 if pairs => self.pack_words::<Pair>(lines, k, panels),
            DType::BF16 => self.pack_words::<Single<bf16>>(lines, k, panels),
            DType::F16 => self.pack_words::<Single<f16>>(lines, k, panels),
            _ => self.pack_words::<Single<f32>>(lines, k, panels),
        }
    }

    fn pack_words<W: Word>(&self, lines: Lines, k: usize, panels: *mut f32) {
        let Lines { source, along_k, stride, lines, panel_lines, panel_width } = lines;
        self.cpu.dispatch(Pack::<W> {
            source: source.cast(),
            along_k,
            stride,
            lines,
            k,
            panel_lines,
            panel_width,
            panels,
        });
    }
}
