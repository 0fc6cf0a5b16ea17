use super::{EmbeddingBackward, EmbeddingForward};
use crate::backend::cpu::span::{Span, each_vector};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements that one task writes, about.
const TASK: usize = 16 * 1024;

/// Columns of a task of the backward pass: rows are split so that one frequent token does not fall to one task.
const COLUMNS: usize = 512;

struct ForwardRows<'a, T> {
    op: &'a EmbeddingForward<'a>,
    y: View<'a>,
    rows: Range<usize>,
    element: PhantomData<T>,
}

impl<T: Element> Kernel for ForwardRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (op, c) = (self.op, self.y.width());
        for place in self.rows {
            // SAFETY: check_elements found each token in the table, check a row for each position; y is apart from
            // the tables, and this task alone writes this row of it.
            unsafe {
                let token = op.tokens.element_ptr::<i32>(place).read() as usize;
                let (from, y) = (op.token_table.row_ptr::<T>(token), self.y.row_ptr::<T>(place));
                let Some(table) = op.position_table else {
                    std::ptr::copy_nonoverlapping(from, y, c);
                    continue;
                };
                let position = table.row_ptr::<T>(place % op.tokens.width());
                each_vector!(S, c, |at, span| {
                    let sum = s.add(span.load(s, from.add(at)), span.load(s, position.add(at)));
                    span.store(s, y.add(at), sum);
                });
            }
        }
    }
}

pub(super) fn forward(op: &EmbeddingForward<'_>, cpu: &Cpu<'_>) {
    let y = op.y.collapsed();
    let rows_per_task = (TASK / y.width().max(1)).max(1);
    with_float!(y.dtype(), T => {
        cpu.parallel_chunks(op.tokens.numel(), rows_per_task, |rows, _| {
            cpu.dispatch(ForwardRows::<T> { op, y, rows, element: PhantomData });
        });
    });
}

/// The places of each token, by a counting sort: for each token in turn its places in ascending order, and where they
/// end.
#[derive(Clone, Copy)]
struct Places<'a> {
    order: &'a [u32],
    ends: &'a [u32],
}

impl<'a> Places<'a> {
    fn sort(tokens: &View<'_>, order: &'a mut [u32], ends: &'a mut [u32]) -> Places<'a> {
        // SAFETY: a place is below the number of tokens, each found in the table by check_elements.
        let token = |place: usize| unsafe { tokens.element_ptr::<i32>(place).read() } as usize;
        ends.fill(0);
        for place in 0..order.len() {
            ends[token(place)] += 1;
        }
        // Counts become starts, and starts become ends while the places are put in.
        let mut start = 0;
        for end in ends.iter_mut() {
            start += std::mem::replace(end, start);
        }
        for place in 0..order.len() {
            let at = &mut ends[token(place)];
            order[*at as usize] = place as u32;
            *at += 1;
        }
        Places { order, ends }
    }
}

/// Which rows of dy a row of a table is the sum of.
trait Summands: Copy + Send + Sync {
    /// How many.
    fn count(&self, row: usize) -> usize;
    /// The `i`-th of them.
    fn get(&self, row: usize, i: usize) -> usize;
}

impl Places<'_> {
    #[inline(always)]
    fn start(&self, token: usize) -> usize {
        if token == 0 { 0 } else { self.ends[token - 1] as usize }
    }
}

impl Summands for Places<'_> {
    #[inline(always)]
    fn count(&self, row: usize) -> usize {
        self.ends[row] as usize - self.start(row)
    }
    #[inline(always)]
    fn get(&self, row: usize, i: usize) -> usize {
        self.order[self.start(row) + i] as usize
    }
}

/// The places of each of the first `length` positions, in `batch` sequences.
#[derive(Clone, Copy)]
struct Positions {
    length: usize,
    batch: usize,
}

impl Summands for Positions {
    #[inline(always)]
    fn count(&self, row: usize) -> usize {
        if row < self.length { self.batch } else { 0 }
    }
    #[inline(always)]
    fn get(&self, row: usize, i: usize) -> usize {
        i * self.length + row
    }
}

/// table rows (+)= sums of rows of dy, in `columns`.
struct SumRows<'a, T, D, P> {
    summands: P,
    dy: View<'a>,
    table: View<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    accumulate: bool,
    elements: PhantomData<(T, D)>,
}

impl<T: Element, D: Element, P: Summands> Kernel for SumRows<'_, T, D, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (first, n) = (self.columns.start, self.columns.len());
        for row in self.rows {
            let count = self.summands.count(row);
            if count == 0 && self.accumulate {
                continue;
            }
            // SAFETY: the row and the columns lie in the table, and are this task's alone.
            let out = unsafe { self.table.row_ptr::<D>(row).add(first) };
            // Four vectors of one row of dy at a time: their sums stay in registers while the rows go by.
            let wide = 4 * S::LANES;
            let mut at = 0;
            while at + wide <= n {
                let mut sums = [s.splat(0.0); 4];
                for i in 0..count {
                    // SAFETY: summands are rows of dy, and at + wide <= n columns of it.
                    unsafe {
                        let from = self.dy.row_ptr::<T>(self.summands.get(row, i)).add(first + at);
                        for (k, sum) in sums.iter_mut().enumerate() {
                            *sum = s.add(*sum, T::load(s, from.add(k * S::LANES)));
                        }
                    }
                }
                for (k, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let out = out.add(at + k * S::LANES);
                        let old = if self.accumulate { D::load(s, out) } else { s.splat(0.0) };
                        D::store(s, out, s.add(old, *sum));
                    }
                }
                at += wide;
            }
            let done = at;
            each_vector!(S, n - done, |at, span| {
                let mut sum = s.splat(0.0);
                for i in 0..count {
                    // SAFETY: as above.
                    unsafe {
                        let from = self.dy.row_ptr::<T>(self.summands.get(row, i)).add(first + done + at);
                        sum = s.add(sum, span.load(s, from.cast_const()));
                    }
                }
                // SAFETY: as above.
                unsafe {
                    let out = out.add(done + at);
                    let old = if self.accumulate { span.load(s, out.cast_const()) } else { s.splat(0.0) };
                    span.store(s, out, s.add(old, sum));
                }
            });
        }
    }
}

pub(super) fn backward_workspace(op: &EmbeddingBackward<'_>) -> usize {
    (op.tokens.numel() + op.dtoken_table.shape()[0]) * size_of::<u32>()
}

pub(super) fn backward(op: &EmbeddingBackward<'_>, cpu: &Cpu<'_>) {
    let (places, vocabulary) = (op.tokens.numel(), op.dtoken_table.shape()[0]);
    let space = cpu.workspace(backward_workspace(op)).cast::<u32>();
    if places + vocabulary > 0 {
        // SAFETY: the workspace is aligned, this run's alone, and holds both; any bytes are a u32.
        let (order, ends) = unsafe {
            let order = std::slice::from_raw_parts_mut(space, places);
            (order, std::slice::from_raw_parts_mut(space.add(places), vocabulary))
        };
        sum_rows(op, cpu, Places::sort(&op.tokens, order, ends), &op.dtoken_table);
    }
    if let Some(table) = &op.dposition_table {
        let length = op.tokens.width();
        sum_rows(op, cpu, Positions { length, batch: places.checked_div(length).unwrap_or(0) }, table);
    }
}

fn sum_rows(op: &EmbeddingBackward<'_>, cpu: &Cpu<'_>, summands: impl Summands, table: &View<'_>) {
    let dy = op.dy.collapsed();
    let (table, accumulate) = (*table, op.accumulate);
    let (height, width) = (table.shape()[0], table.width());
    let pieces = width.div_ceil(COLUMNS);
    let rows_per_task = TASK / COLUMNS.min(width.max(1));
    with_float!(dy.dtype(), T => with_float!(table.dtype(), D => {
        cpu.parallel_for(height.div_ceil(rows_per_task) * pieces, |task, _| {
            let (block, piece) = (task / pieces, task % pieces);
            let rows = block * rows_per_task..((block + 1) * rows_per_task).min(height);
            let columns = piece * COLUMNS..((piece + 1) * COLUMNS).min(width);
            let elements = PhantomData::<(T, D)>;
            cpu.dispatch(SumRows { summands, dy, table, rows, columns, accumulate, elements });
        });
    }));
}
