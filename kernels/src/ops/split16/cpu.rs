use super::{Join, Split};
use crate::backend::cpu::{Cpu, Kernel, Simd, compact};
use crate::view::View;
use std::ops::Range;

/// Elements of one task.
const TASK: usize = 16 * 1024;

struct Run<'a> {
    f32s: View<'a>,
    weight: View<'a>,
    remainder: View<'a>,
    range: Range<usize>,
    join: bool,
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (at, n) = (self.range.start, self.range.len());
        // SAFETY: the range lies in the tensors, which are contiguous.
        unsafe {
            let f32s = self.f32s.ptr::<f32>().add(at);
            let (weight, remainder) = (self.weight.ptr::<u16>().add(at), self.remainder.ptr::<i16>().add(at));
            if self.join {
                compact::join(s, weight, remainder, f32s, n);
            } else {
                compact::split(s, f32s, weight, remainder, n);
            }
        }
    }
}

pub(super) fn split(op: &Split<'_>, cpu: &Cpu<'_>) {
    let Split { x, weight, remainder } = *op;
    cpu.parallel_chunks(x.numel(), TASK, |range, _| {
        cpu.dispatch(Run { f32s: x, weight, remainder, range, join: false });
    });
}

pub(super) fn join(op: &Join<'_>, cpu: &Cpu<'_>) {
    let Join { weight, remainder, y } = *op;
    cpu.parallel_chunks(y.numel(), TASK, |range, _| {
        cpu.dispatch(Run { f32s: y, weight, remainder, range, join: true });
    });
}
