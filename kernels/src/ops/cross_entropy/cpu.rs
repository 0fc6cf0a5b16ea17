use super::{CrossEntropy, class, scale};
use crate::backend::cpu::math::{exp, exp_nonpositive, log};
use crate::backend::cpu::span::{Span, UNROLL, each_vector, total};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::with_float;

/// Logits whose exponentials are summed before they join the row's sum: they stay in the first-level cache between
/// the search for their maximum and the sum.
const BLOCK: usize = 1024;

/// Elements of one task; rows are never split.
const TASK: usize = 16 * 1024;

/// Loss of one row of `v` logits of type `L` for class `target` < v, which is returned. Unless `dlogits` is null, its
/// `v` elements of type `G` become the gradients times `scale`; `dlogits` may be `logits`.
///
/// # Safety
/// `logits` is valid for reads and `dlogits`, unless null, for writes of `v` elements; they are apart, or equal and
/// `G` no wider than `L`.
#[inline(always)]
pub(crate) unsafe fn row<S: Simd, L: Element, G: Element>(
    s: S,
    logits: *const L,
    v: usize,
    target: usize,
    scale: f32,
    dlogits: *mut G,
) -> f32 {
    // SAFETY: target < v.
    let chosen = unsafe { logits.add(target).read() }.to_f32();
    // SAFETY: the caller's promise.
    let (largest, sum) = unsafe { exponential_sum(s, logits, v) };
    // The rounding of `largest` would not cancel against the logit if their difference were not taken first.
    let loss = (largest - chosen) + s.max_lane(log(s, s.splat(sum)));
    if !dlogits.is_null() {
        let factor = scale / sum;
        // SAFETY: the caller's promise.
        unsafe { scaled_softmax(s, logits, v, largest, factor, dlogits) };
        let share = s.max_lane(exp(s, s.splat(chosen - largest))) / sum;
        // SAFETY: target < v.
        unsafe { dlogits.add(target).write(G::from_f32((share - 1.0) * scale)) };
    }
    loss
}

/// The largest of `v` logits, or f32::MIN when there is no larger, and the sum of e^(logit - largest).
///
/// One pass: the sum so far is rescaled when a block brings a larger logit.
#[inline(always)]
unsafe fn exponential_sum<S: Simd, L: Element>(s: S, logits: *const L, v: usize) -> (f32, f32) {
    // Finite, so that a block of nothing but -infinity adds 0.
    let mut largest = f32::MIN;
    let mut sum = 0.0f64;
    let mut start = 0;
    while start < v {
        let n = BLOCK.min(v - start);
        // SAFETY: start + n <= v.
        let (found, part) = unsafe { block_sum(s, logits.add(start), n, largest) };
        if found > largest {
            sum *= f64::from(s.max_lane(exp_nonpositive(s, s.splat(largest - found))));
            largest = found;
        }
        sum += f64::from(part);
        start += n;
    }
    (largest, sum as f32)
}

/// The larger of `least` and the largest of `n` logits, and the sum of e^(logit - largest).
#[inline(always)]
unsafe fn block_sum<S: Simd, L: Element>(s: S, logits: *const L, n: usize, least: f32) -> (f32, f32) {
    let mut largest = [s.splat(least); UNROLL];
    each_vector!(S, n, |at, span, k| {
        // SAFETY: the caller's promise.
        let x = unsafe { span.load(s, logits.add(at)) };
        largest[k] = s.max(span.keep(s, x, f32::NEG_INFINITY), largest[k]);
    });
    let m = s.max_lane(s.max(s.max(largest[0], largest[1]), s.max(largest[2], largest[3])));
    let shift = s.splat(m);
    let mut sums = [s.splat(0.0); UNROLL];
    each_vector!(S, n, |at, span, k| {
        // SAFETY: the caller's promise.
        let x = unsafe { span.load(s, logits.add(at)) };
        let x = s.sub(span.keep(s, x, f32::NEG_INFINITY), shift);
        sums[k] = s.add(sums[k], exp_nonpositive(s, x));
    });
    (m, total(s, sums))
}

/// dlogits = e^(logits - largest) factor.
#[inline(always)]
unsafe fn scaled_softmax<S: Simd, L: Element, G: Element>(
    s: S,
    logits: *const L,
    v: usize,
    largest: f32,
    factor: f32,
    dlogits: *mut G,
) {
    let (shift, factor) = (s.splat(largest), s.splat(factor));
    each_vector!(S, v, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let e = exp_nonpositive(s, s.sub(span.load(s, logits.add(at)), shift));
            span.store(s, dlogits.add(at), s.mul(e, factor));
        }
    });
}

struct Rows<'a, T> {
    op: &'a CrossEntropy<'a>,
    rows: std::ops::Range<usize>,
    scale: f32,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let op = self.op;
        let v = op.logits.width();
        for r in self.rows {
            let logits = op.logits.row_ptr::<T>(r);
            let dlogits = op.dlogits.map_or(std::ptr::null_mut(), |dlogits| dlogits.row_ptr::<T>(r));
            // SAFETY: r is a row of every view; the op's check allows only the same rows or apart ones, and
            // check_elements only targets below v. Each row is written by one task.
            unsafe {
                let target = op.targets.element_ptr::<i32>(r).read();
                let loss = match class(target, op.ignore_index) {
                    Some(target) => row(s, logits, v, target, self.scale, dlogits),
                    None => {
                        if !dlogits.is_null() {
                            std::ptr::write_bytes(dlogits, 0, v);
                        }
                        0.0
                    }
                };
                op.losses.element_ptr::<f32>(r).write(loss);
            }
        }
    }
}

pub(super) fn run(op: &CrossEntropy<'_>, cpu: &Cpu<'_>) {
    let scale = scale(op.gradient_scale, &op.loss_scale);
    let rows_per_task = (TASK / op.logits.width().max(1)).max(1);
    with_float!(op.logits.dtype(), T => {
        cpu.parallel_chunks(op.logits.row_count(), rows_per_task, |rows, _| {
            cpu.dispatch(Rows::<T> { op, rows, scale, element: std::marker::PhantomData });
        });
    });
}
