//! Computes c in tasks, one rectangle each: blocks of a and b are packed in scratch of the worker, which
//! keeps them for its next tasks if they fit, summed in f32 there, and stored once at the end.

use super::epilogue::{Epilogue, Target};
use super::multiply::{Ask, Geometry, Multiply};
use super::pack::{Pack, Pair, Single, Word, panel_words};
use super::product::{BATCH_DIMS, Matrix, Product};
use super::tiling::{Format, Tiling, piece};
use super::{Compute, Gemm};
use crate::backend::cpu::{Cpu, Level};
use crate::dtype::{DType, bf16, f16};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether the operands are taken as pairs of bf16 at the level that has their dot product.
fn has_pairs(gemm: &Gemm<'_>) -> bool {
    gemm.a.dtype() == DType::BF16 && gemm.compute == Compute::Default
}

/// Enough for every level, with up to `kept` words of packed operands on each worker.
pub(super) fn workspace(gemm: &Gemm<'_>, workers: usize, kept: usize) -> usize {
    if gemm.c.numel() == 0 {
        return 0;
    }
    let product = Product::new(gemm);
    let words = |geometry, elements| Tiling::new(&product, Format { geometry, elements }, workers, kept).words();
    let [largest, ..] = Geometry::ALL;
    let pairs = if has_pairs(gemm) { words(largest, 2) } else { 0 };
    let singles = Geometry::ALL.map(|geometry| words(geometry, 1)).into_iter().max();
    singles.unwrap_or(0).max(pairs) * size_of::<f32>()
}

/// Runs on `workspace`.
///
/// # Safety
/// It is aligned to [`Cpu::WORKSPACE_ALIGNMENT`], has `workspace(gemm, cpu.workers(), kept)` bytes and no other user.
pub(super) unsafe fn run(gemm: &Gemm<'_>, cpu: &Cpu<'_>, workspace: *mut u8, kept: usize) {
    if gemm.c.numel() == 0 {
        return;
    }
    let product = Product::new(gemm);
    let pairs = cpu.level() == Level::Avx512Bf16 && has_pairs(gemm);
    let format = Format { geometry: cpu.dispatch(Ask), elements: if pairs { 2 } else { 1 } };
    let tiling = Tiling::new(&product, format, cpu.workers(), kept);
    let rectangles = tiling.down * tiling.across * product.batches();
    let ranges = cpu.workers().min(rectangles);
    let start = |range: usize| range * rectangles / ranges;
    // SAFETY: the workspace has these words, and no other user.
    let next: &[AtomicUsize] = unsafe {
        let next: *mut AtomicUsize = workspace.cast();
        (0..ranges).for_each(|range| next.add(range).write(AtomicUsize::new(start(range))));
        for worker in 0..cpu.workers() {
            std::ptr::write_bytes(workspace.cast::<f32>().add(tiling.own(worker)), 0, tiling.flag_words);
        }
        std::slice::from_raw_parts(next, ranges)
    };
    let task = Task { gemm, cpu, product: &product, format, tiling: &tiling, scratch: workspace.cast() };
    // Neighbouring rectangles use the same panels: a worker takes those of its range, and then what others have left.
    cpu.parallel_for(ranges, |first, worker| {
        for range in (first..ranges).chain(0..first) {
            loop {
                let index = next[range].fetch_add(1, Ordering::Relaxed);
                if index >= start(range + 1) {
                    break;
                }
                // SAFETY: each index is taken once, and parallel_for gives a worker's number to one body at a time.
                unsafe { task.run(index, worker) };
            }
        }
    });
}

struct Task<'a> {
    gemm: &'a Gemm<'a>,
    cpu: &'a Cpu<'a>,
    product: &'a Product,
    format: Format,
    tiling: &'a Tiling,
    /// That of the workers, after the ranges.
    scratch: *mut f32,
}

// SAFETY: the scratch is divided among the workers, and the matrices are shared for reading or in disjoint rectangles.
unsafe impl Sync for Task<'_> {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    A,
    B,
}

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
    /// Whether the panels of b are kept ones that are used for the first time by the task.
    first: bool,
    stored: [Option<Target>; 2],
}

/// What a worker has.
struct Scratch {
    /// For each group of lines that is kept, at each block, whether it is packed: those of a, and then those of b.
    flags: *mut u8,
    a: *mut f32,
    b: *mut f32,
    sums: *mut f32,
    bias: *mut f32,
}

impl Task<'_> {
    /// The panels of some lines at the elements `k`, which are a block: those that the worker keeps, or packed now.
    ///
    /// # Safety
    /// The lines and elements are the matrix's, and the scratch the caller's.
    unsafe fn panels(
        &self,
        operand: Operand,
        batch: [usize; BATCH_DIMS],
        lines: Range<usize>,
        k: Range<usize>,
        scratch: &Scratch,
    ) -> *const f32 {
        let Format { geometry, elements } = self.format;
        let (kept, panels, extent, panel_lines, panel_width, flags) = match operand {
            Operand::A => (&self.tiling.a, scratch.a, self.product.m, geometry.rows, geometry.width, scratch.flags),
            Operand::B => {
                let flags = scratch.flags.wrapping_add(self.tiling.a.flags);
                (&self.tiling.b, scratch.b, self.product.n, geometry.columns, geometry.columns, flags)
            }
        };
        // SAFETY: the caller's promise; kept panels have room for all lines and elements.
        unsafe {
            if !kept.all {
                self.pack(self.lines(operand, batch, lines, k.start), k.len(), panels);
                return panels;
            }
            let block = panels.add(k.start / elements * kept.width);
            let panel =
                |line: usize| block.add(line / panel_lines * panel_words(k.len().div_ceil(elements), panel_width));
            for group in lines.start / kept.group..lines.end.div_ceil(kept.group) {
                let flag = flags.add(k.start / self.format.block() * extent.div_ceil(kept.group) + group);
                if flag.replace(1) == 0 {
                    let first = group * kept.group;
                    let lines = first..extent.min(first + kept.group);
                    self.pack(self.lines(operand, batch, lines, k.start), k.len(), panel(first));
                }
            }
            panel(lines.start)
        }
    }

    /// Lines of an operand at element `k`.
    fn lines(&self, operand: Operand, batch: [usize; BATCH_DIMS], lines: Range<usize>, k: usize) -> Lines {
        let (geometry, first) = (self.format.geometry, lines.start);
        let (matrix, along_k, panel_lines, panel_width) = match operand {
            Operand::A => (&self.product.a, !self.gemm.transpose_a, geometry.rows, geometry.width),
            Operand::B => (&self.product.b, self.gemm.transpose_b, geometry.columns, geometry.columns),
        };
        let source = if along_k { matrix.at(batch, first, k) } else { matrix.at(batch, k, first) };
        Lines { source, along_k, stride: matrix.row_stride, lines: lines.len(), panel_lines, panel_width }
    }

    fn scratch(&self, worker: usize) -> Scratch {
        let tiling = self.tiling;
        let flags = self.scratch.wrapping_add(tiling.own(worker));
        let a = flags.wrapping_add(tiling.flag_words);
        let b = a.wrapping_add(tiling.a.words);
        let sums = b.wrapping_add(tiling.b.words);
        Scratch { flags: flags.cast(), a, b, sums, bias: sums.wrapping_add(tiling.sum_words) }
    }

    /// Computes rectangle `index`.
    ///
    /// # Safety
    /// No one else uses the rectangle or the worker's scratch.
    unsafe fn run(&self, index: usize, worker: usize) {
        let (product, tiling, gemm) = (self.product, self.tiling, self.gemm);
        let scratch = self.scratch(worker);
        let Scratch { sums, bias, .. } = scratch;
        let (batch, index) = (index / (tiling.down * tiling.across), index % (tiling.down * tiling.across));
        let batch = product.batch_index(batch);
        // Tasks that share the block of the larger operand follow each other.
        let (i, j) = if product.n > product.m {
            (index % tiling.down, index / tiling.down)
        } else {
            (index / tiling.across, index % tiling.across)
        };
        let geometry = self.format.geometry;
        let Range { start: row, end } = piece(product.m, geometry.rows, i, tiling.down);
        let rows = end - row;
        let Range { start: column, end } = piece(product.n, geometry.columns, j, tiling.across);
        let columns = end - column;
        // SAFETY: all parts lie inside the workspace, and all addresses inside the matrices.
        unsafe {
            if let Some(view) = &gemm.bias {
                self.cpu.dispatch(super::epilogue::Widen { view, first: column, count: columns, to: bias });
            }
            let mut k = 0;
            loop {
                let end = product.k.min(k + self.format.block());
                let a = self.panels(Operand::A, batch, row..row + rows, k..end, &scratch);
                let b = self.panels(Operand::B, batch, column..column + columns, k..end, &scratch);
                let words = (end - k).div_ceil(self.format.elements);
                for first in (0..columns).step_by(tiling.group()) {
                    let block = Block {
                        a,
                        b: b.wrapping_add(first / geometry.columns * panel_words(words, geometry.columns)),
                        k: words,
                        columns: tiling.group().min(columns - first),
                        sums: sums.wrapping_add(first * tiling.rows),
                        accumulate: k > 0,
                        first: tiling.b.all,
                        stored: [None; 2],
                    };
                    if end < product.k {
                        self.multiply(&block, 0..rows);
                        continue;
                    }
                    let target = |matrix: &Matrix| Target {
                        data: matrix.at(batch, row, column + first),
                        stride: matrix.row_stride,
                    };
                    let epilogue = Epilogue {
                        sums: block.sums,
                        geometry,
                        rows,
                        columns: block.columns,
                        alpha: gemm.alpha,
                        beta: gemm.beta,
                        bias: gemm.bias.is_some().then_some(bias.wrapping_add(first).cast_const()),
                        activation: gemm.activation,
                        size: gemm.c.dtype().size(),
                        c: target(&product.c),
                        pre_activation: product.pre_activation.as_ref().map(target),
                    };
                    self.finish(block, &epilogue);
                }
                k = end;
                if k == product.k {
                    break;
                }
            }
        }
    }

    /// Completes the sums by the last block and stores them: those of a panel while they are in the cache.
    ///
    /// # Safety
    /// As for `multiply` and [`Epilogue::store`].
    unsafe fn finish(&self, block: Block, epilogue: &Epilogue) {
        for first in (0..epilogue.rows).step_by(self.format.geometry.rows) {
            let panel = first..(first + self.format.geometry.rows).min(epilogue.rows);
            let epilogue = epilogue.part(panel.clone());
            let stored = [Some(epilogue.c), epilogue.pre_activation];
            // SAFETY: the caller's promise.
            unsafe {
                self.multiply(&Block { stored, first: block.first && first == 0, ..block }, panel);
                epilogue.store(self.gemm.c.dtype(), self.cpu);
            }
        }
    }

    /// Adds the products of `rows`, from a multiple of a panel's rows on, of packed blocks to their sums.
    ///
    /// # Safety
    /// The panels and sums hold the rows.
    unsafe fn multiply(&self, block: &Block, rows: Range<usize>) {
        let Block { b, k, columns, accumulate, stored, .. } = *block;
        let kept = [self.tiling.a.all, block.first];
        let geometry = self.format.geometry;
        let panel = rows.start / geometry.rows;
        let tiles = columns.div_ceil(geometry.columns);
        // SAFETY: the panels and sums of these rows.
        let (a, sums) = unsafe {
            let a = block.a.add(panel * panel_words(k, geometry.width));
            (a, block.sums.add(panel * tiles * geometry.rows * geometry.columns))
        };
        let (rows, size) = (rows.len(), self.gemm.c.dtype().size());
        if self.format.elements == 2 {
            self.cpu.dispatch_bf16(Multiply::<true> { a, b, k, rows, columns, sums, accumulate, kept, stored, size });
        } else {
            self.cpu.dispatch(Multiply::<false> { a, b, k, rows, columns, sums, accumulate, kept, stored, size });
        }
    }

    /// Packs `k` elements of each line as words of the operands' dtype.
    ///
    /// # Safety
    /// The lines can be read, and the panels written.
    unsafe fn pack(&self, lines: Lines, k: usize, panels: *mut f32) {
        match self.gemm.a.dtype() {
            DType::BF16 if self.format.elements == 2 => self.pack_words::<Pair>(lines, k, panels),
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
