//! Block by block: y first, then the sum over the same elements of x while they are in the nearest cache.

use super::Accumulate;
use crate::backend::cpu::span::{Span, each_vector};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::dtype::{DType, bf16};
use crate::exact_sum::{Accumulator, BLOCK, Term, WorkerSums, add_elements};
use crate::view::{View, runs};
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of one task.
const TASK: usize = 64 * BLOCK;

pub(super) fn run(op: &Accumulate<'_>, cpu: &Cpu<'_>) {
    let sums = WorkerSums::new(cpu);
    let flat = op.x.is_contiguous() && op.y.is_contiguous();
    let (x, y) = if flat { (op.x.flattened(), op.y.flattened()) } else { (op.x, op.y) };
    let narrow = y.dtype() == DType::BF16;
    with_float!(x.dtype(), E => cpu.parallel_chunks(x.numel(), TASK, |range, worker| {
        // SAFETY: one running task holds a worker.
        let accumulator = unsafe { sums.of(worker) };
        let (overwrite, square) = (op.overwrite, op.square_sum.is_some());
        if narrow {
            cpu.dispatch(Add::<E, bf16> { x: &x, y: &y, range, overwrite, square, accumulator, element: PhantomData });
        } else {
            cpu.dispatch(Add::<E, f32> { x: &x, y: &y, range, overwrite, square, accumulator, element: PhantomData });
        }
    }));
    let total = sums.total();
    // SAFETY: the check required one writable i64.
    unsafe { *op.nonfinite.ptr::<i64>() += total.nonfinite() as i64 };
    if let Some(overflow) = op.overflow.filter(|_| total.nonfinite() > 0) {
        // SAFETY: the check required one writable i64, whose bits are a mark.
        unsafe { *overflow.ptr::<u64>() = op.overflow_mark.max(*overflow.ptr::<u64>()) };
    }
    if let Some(square_sum) = &op.square_sum {
        crate::ops::exact_sum::add_to(square_sum, &total);
    }
}

struct Add<'a, E, Y> {
    x: &'a View<'a>,
    y: &'a View<'a>,
    range: Range<usize>,
    overwrite: bool,
    square: bool,
    accumulator: &'a mut Accumulator,
    element: PhantomData<(E, Y)>,
}

impl<E: Element, Y: Element> Kernel for Add<'_, E, Y> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut nonfinite = 0;
        let mut start = self.range.start;
        while start < self.range.end {
            let end = self.range.end.min(start + BLOCK);
            for (row, column, n) in runs(self.x.width(), start..end) {
                // SAFETY: the run lies in this row of both views, which have one shape.
                let (x, y) = unsafe { (self.x.row_ptr::<E>(row).add(column), self.y.row_ptr::<Y>(row).add(column)) };
                // SAFETY: as above.
                nonfinite += unsafe {
                    match (self.overwrite, self.square) {
                        (false, false) => add::<S, E, Y, false, true>(s, x, y, n),
                        (false, true) => add::<S, E, Y, false, false>(s, x, y, n),
                        (true, false) => add::<S, E, Y, true, true>(s, x, y, n),
                        (true, true) => add::<S, E, Y, true, false>(s, x, y, n),
                    }
                };
            }
            if self.square {
                add_elements::<S, E>(s, self.accumulator, self.x, start..end, Term::Square);
            }
            start = end;
        }
        self.accumulator.add_nonfinite(nonfinite);
        self.accumulator.carry();
    }
}

/// y = x or y += x over `n` elements; with `COUNT`, returns how many x are not finite.
#[inline(always)]
unsafe fn add<S: Simd, E: Element, Y: Element, const OVERWRITE: bool, const COUNT: bool>(
    s: S,
    x: *const E,
    y: *mut Y,
    n: usize,
) -> u64 {
    let mut nonfinite = 0;
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller promised n elements.
        unsafe {
            let a = span.load(s, x.add(at));
            if COUNT {
                nonfinite += u64::from(s.nonfinite_bits(a).count_ones());
            }
            let sum = if OVERWRITE { a } else { s.add(span.load(s, y.cast_const().add(at)), a) };
            span.store(s, y.add(at), sum);
        }
    });
    nonfinite
}
