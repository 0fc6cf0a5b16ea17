//! One pass at the speed of memory; each worker has an accumulator.

use super::ExactSum;
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::exact_sum::{Accumulator, BLOCK, Term, WorkerSums, add_elements};
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of one task.
const TASK: usize = 256 * BLOCK;

pub(super) fn run(op: &ExactSum<'_>, cpu: &Cpu<'_>) {
    let sums = WorkerSums::new(cpu);
    let x = op.x.flattened();
    let term = if op.square { Term::Square } else { Term::Value };
    with_float!(x.dtype(), E => cpu.parallel_chunks(x.numel(), TASK, |range, worker| {
        // SAFETY: one running task holds a worker.
        let accumulator = unsafe { sums.of(worker) };
        cpu.dispatch(Sum::<E> { x: &x, range, term, accumulator, element: PhantomData });
    }));
    super::add_to(&op.accumulator, &sums.total());
}

struct Sum<'a, E> {
    x: &'a View<'a>,
    range: Range<usize>,
    term: Term,
    accumulator: &'a mut Accumulator,
    element: PhantomData<E>,
}

impl<E: Element> Kernel for Sum<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Two loops, so that neither decides per vector.
        match self.term {
            Term::Value => add_elements::<S, E>(s, self.accumulator, self.x, self.range, Term::Value),
            Term::Square => add_elements::<S, E>(s, self.accumulator, self.x, self.range, Term::Square),
        }
        self.accumulator.carry();
    }
}
