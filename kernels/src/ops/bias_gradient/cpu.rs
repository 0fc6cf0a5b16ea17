use super::BiasGradient;
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Most blocks of rows, and least rows of a block.
const MOST_BLOCKS: usize = 64;
const LEAST_ROWS: usize = 32;
/// Rows that are added to each other before they join the block's sum.
const GROUP: usize = 4;
/// Columns of a task of either pass: a block's sums stay in the first-level cache.
const COLUMNS: usize = 4096;
const FINISH_COLUMNS: usize = 512;

/// Rows of a block: of the last one, fewer.
pub(super) fn block_rows(rows: usize) -> usize {
    rows.div_ceil(MOST_BLOCKS).max(LEAST_ROWS).next_multiple_of(GROUP)
}

pub(super) fn blocks(op: &BiasGradient<'_>) -> usize {
    let rows = op.dy.row_count();
    rows.div_ceil(block_rows(rows))
}

pub(super) fn workspace(op: &BiasGradient<'_>) -> usize {
    blocks(op) * op.dy.width() * size_of::<f32>()
}

/// The sums of one f32 per column for each block of rows.
#[derive(Clone, Copy)]
struct Sums(*mut f32);

// SAFETY: tasks write disjoint parts, and read after all are written.
unsafe impl Sync for Sums {}

impl Sums {
    /// Where the sums of block `block` from `column` on are.
    fn at(&self, n: usize, block: usize, column: usize) -> *mut f32 {
        self.0.wrapping_add(block * n + column)
    }
}

pub(super) fn run(op: &BiasGradient<'_>, cpu: &Cpu<'_>) {
    let (rows, n) = (op.dy.row_count(), op.dy.width());
    let (blocks, block_rows) = (blocks(op), block_rows(rows));
    let sums = Sums(cpu.workspace(workspace(op)).cast());
    let strips = n.div_ceil(COLUMNS);
    with_float!(op.dy.dtype(), T => cpu.parallel_for(blocks * strips, |task, _| {
        let (block, first) = (task / strips, task % strips * COLUMNS);
        cpu.dispatch(Block::<T> {
            dy: &op.dy,
            rows: block * block_rows..((block + 1) * block_rows).min(rows),
            columns: first..(first + COLUMNS).min(n),
            sums: sums.at(n, block, first),
            element: PhantomData,
        });
    }));
    with_float!(op.dbias.dtype(), T => cpu.parallel_chunks(n, FINISH_COLUMNS, |columns, _| {
        cpu.dispatch(Finish::<T> {
            sums: sums.at(n, 0, columns.start),
            n,
            blocks,
            dbias: op.dbias.ptr::<T>().wrapping_add(columns.start),
            columns: columns.len(),
            accumulate: op.accumulate,
        });
    }));
}

/// Column sums of a block of rows.
struct Block<'a, T> {
    dy: &'a View<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    sums: *mut f32,
    element: PhantomData<T>,
}

impl<T: Element> Kernel for Block<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.rows.clone().step_by(GROUP) {
            match self.rows.end - row {
                1 => self.add::<S, 1>(s, row),
                2 => self.add::<S, 2>(s, row),
                3 => self.add::<S, 3>(s, row),
                _ => self.add::<S, GROUP>(s, row),
            }
        }
    }
}

impl<T: Element> Block<'_, T> {
    /// Adds ROWS rows to the sums, or writes them if they are the block's first.
    #[inline(always)]
    fn add<S: Simd, const ROWS: usize>(&self, s: S, row: usize) {
        let mut rows = [std::ptr::null::<T>(); ROWS];
        for (i, p) in rows.iter_mut().enumerate() {
            *p = self.dy.row_ptr::<T>(row + i).wrapping_add(self.columns.start);
        }
        let first = row == self.rows.start;
        for column in (0..self.columns.len()).step_by(S::LANES) {
            let n = self.columns.len() - column;
            // SAFETY: the rows and the sums have the columns.
            unsafe {
                let sums = self.sums.add(column);
                let mut x = [s.splat(0.0); GROUP];
                for (x, p) in x.iter_mut().zip(rows) {
                    *x = T::load_up_to(s, p.add(column), n);
                }
                let sum = match ROWS {
                    1 => x[0],
                    2 => s.add(x[0], x[1]),
                    3 => s.add(s.add(x[0], x[1]), x[2]),
                    _ => s.add(s.add(x[0], x[1]), s.add(x[2], x[3])),
                };
                let sum = if first { sum } else { s.add(f32::load_up_to(s, sums, n), sum) };
                f32::store_up_to(s, sums, sum, n);
            }
        }
    }
}

/// Adds the blocks' sums, first block first, and stores them.
struct Finish<T> {
    sums: *const f32,
    /// From block to block.
    n: usize,
    blocks: usize,
    dbias: *mut T,
    columns: usize,
    accumulate: bool,
}

impl<T: Element> Kernel for Finish<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for column in (0..self.columns).step_by(S::LANES) {
            let n = self.columns - column;
            // SAFETY: every block has the columns, and so has dbias.
            unsafe {
                let dbias = self.dbias.add(column);
                let mut sum = s.splat(0.0);
                for block in 0..self.blocks {
                    sum = s.add(sum, f32::load_up_to(s, self.sums.add(block * self.n + column), n));
                }
                if self.accumulate {
                    sum = s.add(T::load_up_to(s, dbias, n), sum);
                }
                T::store_up_to(s, dbias, sum, n);
            }
        }
    }
}
