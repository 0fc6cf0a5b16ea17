use super::{CrossEntropy, class, scale};
use crate::backend::cpu::math::{exp, exp_nonpositive, log};
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
    const UNROLL: usize = 4;
    let step = UNROLL * S::LANES;
    let unrolled = n - n % step;
    let whole = n - n % S::LANES;
    let rest = n - whole;
    // SAFETY: every load ends at or before n.
    unsafe {
        let mut largest = [s.splat(least); UNROLL];
        let mut i = 0;
        while i < unrolled {
            for (k, m) in largest.iter_mut().enumerate() {
                *m = s.max(L::load(s, logits.add(i + k * S::LANES)), *m);
            }
            i += step;
        }
        while i < whole {
            largest[0] = s.max(L::load(s, logits.add(i)), largest[0]);
            i += S::LANES;
        }
        if rest > 0 {
            largest[1] = s.max(tail(s, logits.add(whole), rest), largest[1]);
        }
        let m = s.max_lane(s.max(s.max(largest[0], largest[1]), s.max(largest[2], largest[3])));
        let shift = s.splat(m);
        let mut sums = [s.splat(0.0); UNROLL];
        let mut i = 0;
        while i < unrolled {
            for (k, sum) in sums.iter_mut().enumerate() {
                let x = L::load(s, logits.add(i + k * S::LANES));
                *sum = s.add(*sum, exp_nonpositive(s, s.sub(x, shift)));
            }
            i += step;
        }
        while i < whole {
            sums[0] = s.add(sums[0], exp_nonpositive(s, s.sub(L::load(s, logits.add(i)), shift)));
            i += S::LANES;
        }
        if rest > 0 {
            sums[1] = s.add(sums[1], exp_nonpositive(s, s.sub(tail(s, logits.add(whole), rest), shift)));
        }
        (m, s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))))
    }
}

/// `n` < LANES logits, the other lanes -infinity.
#[inline(always)]
unsafe fn tail<S: Simd, L: Element>(s: S, logits: *const L, n: usize) -> S::F {
    // SAFETY: the caller's promise.
    let x = unsafe { L::load_partial(s, logits, n) };
    s.select(s.lt(s.to_f(s.iota()), s.splat(n as f32)), x, s.splat(f32::NEG_INFINITY))
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
    let whole = v - v % S::LANES;
    let rest = v - whole;
    let mut i = 0;
    // SAFETY: every access ends at or before v.
    unsafe {
        while i < whole {
            let e = exp_nonpositive(s, s.sub(L::load(s, logits.add(i)), shift));
            G::store(s, dlogits.add(i), s.mul(e, factor));
            i += S::LANES;
        }
        if rest > 0 {
            let e = exp_nonpositive(s, s.sub(L::load_partial(s, logits.add(i), rest), shift));
            G::store_partial(s, dlogits.add(i), s.mul(e, factor), rest);
        }
    }
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
