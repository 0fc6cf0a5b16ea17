use super::{RankReduce, Reduction};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::dtype::DType;
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of a task: its sum, which is copied to the other outputs, stays in the cache. Results do not depend on it.
const TASK: usize = 16 * 1024;

pub(super) fn run(op: &RankReduce<'_>, cpu: &Cpu<'_>) {
    let y = op.outputs[0];
    let size = y.dtype().size();
    cpu.parallel_chunks(y.numel(), TASK, |range, _| {
        match y.dtype() {
            DType::I64 => cpu.dispatch(Integers { op, range: range.clone() }),
            dtype => with_float!(dtype, T => {
                let range = range.clone();
                match op.reduction {
                    Reduction::Max => cpu.dispatch(Floats::<T, Largest> { op, range, then: Largest, of: PhantomData }),
                    Reduction::Sum => cpu.dispatch(Floats::<T, Sum> { op, range, then: Sum, of: PhantomData }),
                    Reduction::Mean => {
                        let then = Mean(op.inputs.len() as f32);
                        cpu.dispatch(Floats::<T, Mean> { op, range, then, of: PhantomData });
                    }
                }
            }),
        }
        for other in &op.outputs[1..] {
            let (at, bytes) = (range.start * size, range.len() * size);
            // SAFETY: the range lies inside both views, which do not overlap: `check`.
            unsafe { std::ptr::copy_nonoverlapping(y.data().add(at), other.data().add(at), bytes) };
        }
    });
}

/// What becomes of two elements, and of the result of all.
trait Combine: Copy + Send + Sync {
    fn combine<S: Simd>(self, s: S, y: S::F, x: S::F) -> S::F;
    fn finish<S: Simd>(self, _s: S, y: S::F) -> S::F {
        y
    }
}

#[derive(Clone, Copy)]
struct Sum;

impl Combine for Sum {
    #[inline(always)]
    fn combine<S: Simd>(self, s: S, y: S::F, x: S::F) -> S::F {
        s.add(y, x)
    }
}

/// The sum divided by this.
#[derive(Clone, Copy)]
struct Mean(f32);

impl Combine for Mean {
    #[inline(always)]
    fn combine<S: Simd>(self, s: S, y: S::F, x: S::F) -> S::F {
        s.add(y, x)
    }
    #[inline(always)]
    fn finish<S: Simd>(self, s: S, y: S::F) -> S::F {
        s.div(y, s.splat(self.0))
    }
}

#[derive(Clone, Copy)]
struct Largest;

impl Combine for Largest {
    #[inline(always)]
    fn combine<S: Simd>(self, s: S, y: S::F, x: S::F) -> S::F {
        let larger = s.select(s.lt(y, x), x, y);
        s.select(s.le(x, x), larger, x)
    }
}

/// Vectors that a step holds: enough to hide the latency of an addition.
const STEP: usize = 4;

struct Floats<'a, T, C> {
    op: &'a RankReduce<'a>,
    range: Range<usize>,
    then: C,
    of: PhantomData<T>,
}

impl<T: Element, C: Combine> Kernel for Floats<'_, T, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (inputs, y) = (self.op.inputs, self.op.outputs[0].ptr::<T>());
        let (first, others) = (inputs[0].ptr::<T>(), &inputs[1..]);
        let Range { start: mut at, end } = self.range;
        while end - at >= STEP * S::LANES {
            let mut sums = [s.splat(0.0); STEP];
            for pair in 0..STEP / 2 {
                // SAFETY: the step lies inside every view.
                let loaded = unsafe { T::load_pair(s, first.add(at + pair * 2 * S::LANES)) };
                (sums[2 * pair], sums[2 * pair + 1]) = (loaded[0], loaded[1]);
            }
            for x in others {
                for pair in 0..STEP / 2 {
                    // SAFETY: as above.
                    let loaded = unsafe { T::load_pair(s, x.ptr::<T>().add(at + pair * 2 * S::LANES)) };
                    sums[2 * pair] = self.then.combine(s, sums[2 * pair], loaded[0]);
                    sums[2 * pair + 1] = self.then.combine(s, sums[2 * pair + 1], loaded[1]);
                }
            }
            for pair in 0..STEP / 2 {
                let both = [self.then.finish(s, sums[2 * pair]), self.then.finish(s, sums[2 * pair + 1])];
                // SAFETY: as above; an output that is an input has been read at these elements.
                unsafe { T::store_pair(s, y.add(at + pair * 2 * S::LANES), both) };
            }
            at += STEP * S::LANES;
        }
        while at < end {
            let n = (end - at).min(S::LANES);
            // SAFETY: n elements from `at` on lie inside every view.
            unsafe {
                let mut sum = T::load_up_to(s, first.add(at), n);
                for x in others {
                    sum = self.then.combine(s, sum, T::load_up_to(s, x.ptr::<T>().add(at), n));
                }
                T::store_up_to(s, y.add(at), self.then.finish(s, sum), n);
            }
            at += n;
        }
    }
}

struct Integers<'a> {
    op: &'a RankReduce<'a>,
    range: Range<usize>,
}

impl Kernel for Integers<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let word = |x: &View<'_>, at: usize| {
            // SAFETY: the element lies inside every view.
            unsafe { x.ptr::<i64>().add(at).read() }
        };
        let (first, others) = (self.op.inputs[0], &self.op.inputs[1..]);
        for at in self.range {
            let x = others.iter().map(|x| word(x, at));
            let y = match self.op.reduction {
                Reduction::Max => x.fold(word(&first, at), i64::max),
                Reduction::Sum | Reduction::Mean => x.fold(word(&first, at), i64::wrapping_add),
            };
            // SAFETY: as above; an output that is an input has been read at this element.
            unsafe { self.op.outputs[0].ptr::<i64>().add(at).write(y) };
        }
    }
}
