use super::{CrossEntropy, class, scale};
use crate::backend::cpu::math::{FIXED, exp, exp_nonpositive, exp2_fixed, exp2_fixed_coarse, fixed_nonpositive, log};
use crate::backend::cpu::span::{Span, UNROLL, each_vector, total};
use crate::backend::cpu::{Cpu, Element, Float, Kernel, Simd, plain_nan};
use crate::dtype::DType;
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
pub(crate) unsafe fn row<S: Simd, L: Element, G: Float>(
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
        let factor = plain_nan(scale / sum);
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

/// 2^23 log2(e), the unit of a fixed-point exponent.
const UNIT: f32 = std::f32::consts::LOG2_E * FIXED;

/// The larger of `least` and the largest of `n` logits, and the sum of e^(logit - largest).
#[inline(always)]
unsafe fn block_sum<S: Simd, L: Element>(s: S, logits: *const L, n: usize, least: f32) -> (f32, f32) {
    let pairs = if L::INTERLEAVED { n / (2 * S::LANES) } else { 0 };
    let start = pairs * 2 * S::LANES;
    let mut largest = [s.splat(least); UNROLL];
    for pair in 0..pairs {
        // SAFETY: the caller's promise.
        let x = unsafe { L::load_pair(s, logits.add(pair * 2 * S::LANES)) };
        for k in 0..2 {
            largest[k] = s.max(x[k], largest[k]);
        }
    }
    each_vector!(S, n - start, |at, span, k| {
        // SAFETY: the caller's promise.
        let x = unsafe { span.load(s, logits.add(start + at)) };
        largest[k] = s.max(span.keep(s, x, f32::NEG_INFINITY), largest[k]);
    });
    let m = s.max_lane(s.max(s.max(largest[0], largest[1]), s.max(largest[2], largest[3])));
    let shift = s.splat(m);
    let mut sums = Exponentials { shift, powers: [s.splat(0.0); UNROLL], exponents: [s.splat(0.0); UNROLL] };
    for pair in 0..pairs {
        // SAFETY: the caller's promise.
        let x = unsafe { L::load_pair(s, logits.add(pair * 2 * S::LANES)) };
        sums.add(s, 0, x[0]);
        sums.add(s, 1, x[1]);
    }
    each_vector!(S, n - start, |at, span, k| {
        // SAFETY: the caller's promise.
        let x = unsafe { span.load(s, logits.add(start + at)) };
        sums.add(s, k, span.keep(s, x, f32::NEG_INFINITY));
    });
    let exponents = total(s, sums.exponents);
    (m, if exponents.is_nan() { exponents } else { total(s, sums.powers) })
}

/// Sums of e^(x - shift), and of their exponents: finite unless there is a NaN, which the powers do not show.
struct Exponentials<S: Simd> {
    shift: S::F,
    powers: [S::F; UNROLL],
    exponents: [S::F; UNROLL],
}

impl<S: Simd> Exponentials<S> {
    #[inline(always)]
    fn add(&mut self, s: S, k: usize, x: S::F) {
        let t = fixed_nonpositive(s, s.mul(s.sub(x, self.shift), s.splat(UNIT)));
        self.powers[k] = s.add(self.powers[k], exp2_fixed(s, t));
        self.exponents[k] = s.add(self.exponents[k], t);
    }
}

/// e^x factor for x <= 0, as a `G` stores it. NaN gives something, unless the factor is NaN as well.
#[inline(always)]
fn scaled_exponential<S: Simd, G: Element>(s: S, x: S::F, factor: S::F) -> S::F {
    let e = if G::DTYPE == DType::BF16 {
        exp2_fixed_coarse(s, fixed_nonpositive(s, s.mul(x, s.splat(UNIT))))
    } else {
        exp_nonpositive(s, x)
    };
    s.mul(e, factor)
}

/// dlogits = e^(logits - largest) factor, which is NaN where a logit is.
#[inline(always)]
unsafe fn scaled_softmax<S: Simd, L: Element, G: Float>(
    s: S,
    logits: *const L,
    v: usize,
    largest: f32,
    factor: f32,
    dlogits: *mut G,
) {
    let dlogits: *mut G::Computed = dlogits.cast();
    let (shift, factor) = (s.splat(largest), s.splat(factor));
    let pairs = if L::INTERLEAVED && G::Computed::INTERLEAVED { v / (2 * S::LANES) } else { 0 };
    let start = pairs * 2 * S::LANES;
    for pair in 0..pairs {
        let at = pair * 2 * S::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = L::load_pair(s, logits.add(at));
            let first = scaled_exponential::<S, G>(s, s.sub(first, shift), factor);
            let second = scaled_exponential::<S, G>(s, s.sub(second, shift), factor);
            G::Computed::store_pair(s, dlogits.add(at), [first, second]);
        }
    }
    each_vector!(S, v - start, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let x = s.sub(span.load(s, logits.add(start + at)), shift);
            span.store(s, dlogits.add(start + at), scaled_exponential::<S, G>(s, x, factor));
        }
    });
}

struct Rows<'a, T> {
    op: &'a CrossEntropy<'a>,
    rows: std::ops::Range<usize>,
    scale: f32,
    element: std::marker::PhantomData<T>,
}

impl<T: Float> Kernel for Rows<'_, T> {
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
