//! The forward row kernel of layer norm and of RMS norm.

use super::rows::{arrange, dispatch, padded, uses_dot_bf16};
use crate::backend::cpu::pair::Paired;
use crate::backend::cpu::span::{Span, UNROLL, each_pair, total};
use crate::backend::cpu::{Cpu, Kernel, Simd, prefetch};
use crate::dtype::DType;
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of one task, at least; rows are never split.
const TASK: usize = 32 * 1024;

/// Tasks, at most.
const MOST_TASKS: usize = 128;

/// Bytes of rows whose statistics are made before any of them is written, so that no row waits for its own: few enough to
/// stay in the first-level cache.
const GROUP_BYTES: usize = 12 * 1024;

/// Rows of such a group. At least as many as share an access to the parameters.
const LEAST_GROUP: usize = 4;
const MOST_GROUP: usize = 8;

/// y = (x - mean) rstd weight + bias when `CENTERED`, else y = x rstd weight.
pub(crate) struct Forward<'a> {
    pub(crate) x: View<'a>,
    pub(crate) weight: Option<View<'a>>,
    /// None unless centered.
    pub(crate) bias: Option<View<'a>>,
    pub(crate) epsilon: f32,
    pub(crate) y: View<'a>,
    pub(crate) mean: Option<View<'a>>,
    pub(crate) rstd: Option<View<'a>>,
}

impl Forward<'_> {
    /// Bytes of workspace: the parameters, in the order in which rows are computed.
    pub(crate) fn workspace(&self, centered: bool) -> usize {
        padded(self.x.width()) * if centered { 2 } else { 1 } * size_of::<f32>()
    }

    /// Runs over all rows.
    pub(crate) fn run<const CENTERED: bool>(mut self, cpu: &Cpu<'_>) {
        (self.x, self.y) = (self.x.collapsed(), self.y.collapsed());
        let (rows, width) = (self.x.row_count(), self.x.width());
        let weight = cpu.workspace(self.workspace(CENTERED)).cast::<f32>();
        let bias = weight.wrapping_add(padded(width));
        with_float!(self.x.dtype(), T => {
            // SAFETY: the workspace holds both.
            unsafe {
                arrange::<T>(cpu, &self.weight, width, 1.0, weight);
                if CENTERED {
                    arrange::<T>(cpu, &self.bias, width, 0.0, bias);
                }
            }
            // SAFETY: the workspace holds both, arranged.
            let normal = uses_dot_bf16::<T>(cpu)
                && unsafe { denormals_hide(weight, CENTERED.then_some(bias.cast_const()), width) };
            let parameters = Parameters { weight, bias, normal };
            let group = (GROUP_BYTES / (width * size_of::<T>()).max(1)).clamp(LEAST_GROUP, MOST_GROUP);
            let per_task = (TASK / width.max(1)).max(rows.div_ceil(MOST_TASKS)).max(1).next_multiple_of(group);
            cpu.parallel_chunks(rows, per_task, |rows, _| {
                let (op, parameters) = (&self, &parameters);
                dispatch::<T, _>(cpu, Rows::<T, CENTERED> { op, parameters, rows, group, element: PhantomData });
            });
        });
    }
}

/// Of the padded width; the bias is there when centered.
struct Parameters {
    weight: *const f32,
    bias: *const f32,
    /// See [`denormals_hide`].
    normal: bool,
}

// SAFETY: the pointers are read only, and valid during the run.
unsafe impl Sync for Parameters {}

/// Whether the tolerance of y allows zeros in place of denormals, whatever x is: in each column it exceeds 2^-21 |weight|, or
/// weight is 0 and y the bias.
///
/// # Safety
/// Weight and bias, unless it is none, have the padded width.
unsafe fn denormals_hide(weight: *const f32, bias: Option<*const f32>, width: usize) -> bool {
    let hidden = |i| {
        // SAFETY: the caller's promise.
        let (weight, bias) = unsafe { (*weight.add(i), bias.map_or(0.0, |bias| *bias.add(i))) };
        // Without branches, so that the compiler vectorises.
        let normal_bias = (bias == 0.0) | (bias.abs() >= f32::MIN_POSITIVE) | bias.is_nan();
        (weight.abs() >= 1e-30) | weight.is_nan() | ((weight == 0.0) & normal_bias)
    };
    (0..padded(width)).fold(true, |all, i| all & hidden(i))
}

struct Rows<'a, T, const CENTERED: bool> {
    op: &'a Forward<'a>,
    parameters: &'a Parameters,
    rows: Range<usize>,
    group: usize,
    element: PhantomData<T>,
}

impl<T: Paired, const CENTERED: bool> Kernel for Rows<'_, T, CENTERED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let op = self.op;
        let width = op.x.width();
        let mut first = self.rows.start;
        while first < self.rows.end {
            let n = self.group.min(self.rows.end - first);
            let mut statistics = [(0.0, 0.0); MOST_GROUP];
            for k in 0..n {
                let row = first + k;
                // SAFETY: the row lies in every view, and no other task has it.
                unsafe {
                    let (mean, rstd) = row_statistics::<S, T, CENTERED>(s, op.x.row_ptr::<T>(row), width, op.epsilon);
                    statistics[k] = (mean, rstd);
                    if let Some(view) = op.mean {
                        view.element_ptr::<f32>(row).write(mean);
                    }
                    if let Some(view) = op.rstd {
                        view.element_ptr::<f32>(row).write(rstd);
                    }
                }
            }
            let mut k = 0;
            if S::REGISTERS >= 32 {
                while n - k >= 4 {
                    self.normalise::<S, 4>(s, first + k, &statistics[k..]);
                    k += 4;
                }
            }
            while n - k >= 2 {
                self.normalise::<S, 2>(s, first + k, &statistics[k..]);
                k += 2;
            }
            if k < n {
                self.normalise::<S, 1>(s, first + k, &statistics[k..]);
            }
            first += n;
        }
    }
}

impl<T: Paired, const CENTERED: bool> Rows<'_, T, CENTERED> {
    /// Writes R rows from `first` on, whose means and rstds `statistics` begins with.
    #[inline(always)]
    fn normalise<S: Simd, const R: usize>(&self, s: S, first: usize, statistics: &[(f32, f32)]) {
        if S::HAS_DOT_BF16 && self.parameters.normal {
            self.normalise_rounding::<S, R, true>(s, first, statistics);
        } else {
            self.normalise_rounding::<S, R, false>(s, first, statistics);
        }
    }

    #[inline(always)]
    fn normalise_rounding<S: Simd, const R: usize, const NORMAL: bool>(
        &self,
        s: S,
        first: usize,
        statistics: &[(f32, f32)],
    ) {
        let op = self.op;
        let (weight, bias) = (self.parameters.weight, self.parameters.bias);
        let (mut x, mut y) = ([std::ptr::null(); R], [std::ptr::null_mut(); R]);
        let (mut shift, mut factor) = ([s.splat(0.0); R], [s.splat(0.0); R]);
        for r in 0..R {
            (x[r], y[r]) = (op.x.row_ptr::<T>(first + r).cast_const(), op.y.row_ptr::<T>(first + r));
            (shift[r], factor[r]) = (s.splat(statistics[r].0), s.splat(statistics[r].1));
        }
        let next = op.x.row_ptr::<T>((first + self.group).min(self.rows.end - 1));
        let ahead = (next as usize).wrapping_sub(x[0] as usize);
        let next = op.y.row_ptr::<T>((first + self.group).min(self.rows.end - 1));
        let ahead_y = (next as usize).wrapping_sub(y[0] as usize);
        each_pair!(S, 0..op.x.width(), |at, span| {
            // SAFETY: the rows lie in both views, and the op's check made y the same row as x or apart from it; the
            // parameters have the padded width.
            unsafe {
                let w = [s.load(weight.add(at)), s.load(weight.add(at + S::LANES))];
                let mut b = w;
                if CENTERED {
                    b = [s.load(bias.add(at)), s.load(bias.add(at + S::LANES))];
                }
                let mut loaded = [w; R];
                for r in 0..R {
                    prefetch(x[r].wrapping_add(at).wrapping_byte_add(ahead));
                    prefetch(y[r].wrapping_add(at).wrapping_byte_add(ahead_y));
                    loaded[r] = span.load_pair(s, x[r].add(at));
                }
                for r in 0..R {
                    let mut out = loaded[r];
                    for half in 0..2 {
                        out[half] = if CENTERED {
                            let xhat = s.mul(s.sub(out[half], shift[r]), factor[r]);
                            s.fast_fma(xhat, w[half], b[half])
                        } else {
                            s.mul(s.mul(out[half], factor[r]), w[half])
                        };
                    }
                    span.store_pair::<S, T, NORMAL>(s, y[r].add(at), out);
                }
            }
        });
    }
}

/// Mean (0 when not centered) and 1 / sqrt(mean square distance from it + epsilon) of one row.
///
/// # Safety
/// The row has `width` elements.
#[inline(always)]
unsafe fn row_statistics<S: Simd, T: Paired, const CENTERED: bool>(
    s: S,
    x: *const T,
    width: usize,
    epsilon: f32,
) -> (f32, f32) {
    let n = width.max(1) as f32;
    if S::HAS_DOT_BF16 && T::DTYPE == DType::BF16 {
        // SAFETY: T is bf16; the caller's promise.
        let (sum, square_sum) = unsafe { moments::<S, CENTERED>(s, x.cast(), width) };
        let (mean, square) = (sum / n, square_sum / n);
        // Where |mean| rstd is at most 1 the difference loses one bit. Sums that are not above LEAST_SQUARES may lack
        // denormals, which the dot product takes for zeros; squares that overflow may have none when centered.
        let sound = square_sum > LEAST_SQUARES && square_sum < f32::INFINITY;
        if sound && 2.0 * mean * mean <= square {
            return (mean, 1.0 / (square - mean * mean + epsilon).sqrt());
        }
    }
    let mut mean = 0.0;
    if CENTERED {
        let mut sums = [s.splat(0.0); UNROLL];
        each_pair!(S, 0..width, |at, span, k| {
            // SAFETY: the caller's promise.
            let x = unsafe { span.load_pair(s, x.add(at)) };
            sums[k] = s.add(sums[k], s.add(x[0], x[1]));
        });
        mean = total(s, sums) / n;
    }
    let shift = s.splat(mean);
    let mut squares = [s.splat(0.0); UNROLL];
    each_pair!(S, 0..width, |at, span, k| {
        // SAFETY: as above.
        let mut x = unsafe { span.load_pair(s, x.add(at)) };
        if CENTERED {
            x = span.keep_pair::<S, T>(s, [s.sub(x[0], shift), s.sub(x[1], shift)]);
        }
        squares[k] = s.fast_fma(x[0], x[0], s.fast_fma(x[1], x[1], squares[k]));
    });
    (mean, 1.0 / (total(s, squares) / n + epsilon).sqrt())
}

/// So large that denormal squares and elements do not count beside it.
const LEAST_SQUARES: f32 = 1e-20;

/// The sum (0 when not centered) and the sum of squares of the bf16 of a row, by dot products.
///
/// # Safety
/// The row has `width` elements.
#[inline(always)]
unsafe fn moments<S: Simd, const CENTERED: bool>(s: S, x: *const u16, width: usize) -> (f32, f32) {
    let ones = s.of_bits(s.splat_i(0x3f80_3f80));
    let mut sums = [s.splat(0.0); UNROLL];
    let mut squares = [s.splat(0.0); UNROLL];
    each_pair!(S, 0..width, |at, span, k| {
        // SAFETY: the caller's promise.
        let x = s.of_bits(unsafe { span.load_words(s, x.add(at)) });
        if CENTERED {
            sums[k] = s.dot_bf16(x, ones, sums[k]);
        }
        squares[k] = s.dot_bf16(x, x, squares[k]);
    });
    (if CENTERED { total(s, sums) } else { 0.0 }, total(s, squares))
}
