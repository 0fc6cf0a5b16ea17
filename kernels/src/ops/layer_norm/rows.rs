//! The row kernels of layer norm and of RMS norm, which is layer norm without mean and bias.

use crate::backend::cpu::span::{Span, UNROLL, each_vector, total};
use crate::backend::cpu::{Cpu, Element, Kernel, Simd};
use crate::dtype::DType;
use crate::view::{Invalid, View};
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Elements of one task of the forward pass; rows are never split.
const TASK: usize = 16 * 1024;

/// Most blocks of rows of the backward pass, each with its own partial sums.
const MOST_BLOCKS: usize = 64;

/// Least rows of a block: its partial sums cost about one row of traffic.
const LEAST_ROWS: usize = 16;

/// Columns of a task that adds up partial sums.
const COLUMNS: usize = 512;

/// Requires an epsilon above 0.
pub(crate) fn check_epsilon(epsilon: f32) -> Result<(), Invalid> {
    if epsilon.is_finite() && epsilon > 0.0 {
        return Ok(());
    }
    Err(Invalid::new("epsilon", format!("{epsilon} must be finite and above 0")))
}

/// Requires a parameter or its gradient, where there is one, of x's width and of x's dtype or f32.
pub(crate) fn check_parameter(
    argument: &'static str,
    parameter: &Option<View<'_>>,
    x: &View<'_>,
) -> Result<(), Invalid> {
    let Some(parameter) = parameter else { return Ok(()) };
    let allowed = [DType::F32, x.dtype()];
    parameter.expect_dtype(argument, if x.dtype() == DType::F32 { &allowed[..1] } else { &allowed })?;
    parameter.expect_shape(argument, &[x.width()], "the width of x")?;
    parameter.expect_rows(argument)
}

/// Requires a statistic, where there is one, of one f32 for each row of x.
pub(crate) fn check_statistic(
    argument: &'static str,
    statistic: &Option<View<'_>>,
    x: &View<'_>,
) -> Result<(), Invalid> {
    let Some(statistic) = statistic else { return Ok(()) };
    statistic.expect_dtype(argument, &[DType::F32])?;
    statistic.expect_shape(argument, &x.shape()[..x.ndim() - 1], "the leading dimensions of x")?;
    statistic.expect_rows(argument)
}

/// Floats of workspace that [`parameter`] uses.
pub(crate) fn parameter_floats(parameter: &Option<View<'_>>, width: usize) -> usize {
    if parameter.is_some_and(|view| view.dtype() == DType::F32) { 0 } else { width }
}

struct Widen<T> {
    from: *const T,
    to: *mut f32,
    n: usize,
}

impl<T: Element> Kernel for Widen<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each_vector!(S, self.n, |at, span| {
            // SAFETY: `parameter` made both pointers valid for n elements.
            unsafe { span.store(s, self.to.add(at), span.load(s, self.from.add(at))) };
        });
    }
}

/// The parameter as contiguous f32: itself, or a copy in the workspace at `space`, which then moves past it; `absent`
/// in each element of a missing one.
///
/// # Safety
/// `space` is valid for writes of [`parameter_floats`] floats.
pub(crate) unsafe fn parameter(
    cpu: &Cpu<'_>,
    parameter: &Option<View<'_>>,
    width: usize,
    absent: f32,
    space: &mut *mut f32,
) -> *const f32 {
    if let Some(view) = parameter.filter(|view| view.dtype() == DType::F32) {
        return view.ptr::<f32>();
    }
    let copy = *space;
    // SAFETY: the caller's promise.
    *space = unsafe { copy.add(width) };
    match parameter {
        Some(view) => with_float!(view.dtype(), T => {
            cpu.dispatch(Widen { from: view.ptr::<T>(), to: copy, n: width });
        }),
        // SAFETY: as above.
        None => (0..width).for_each(|i| unsafe { copy.add(i).write(absent) }),
    }
    copy
}

/// The forward pass: y = (x - mean) rstd weight + bias when `CENTERED`, else y = x rstd weight.
pub(crate) struct Forward<'a> {
    pub(crate) x: View<'a>,
    pub(crate) weight: *const f32,
    /// Read only when centered.
    pub(crate) bias: *const f32,
    pub(crate) epsilon: f32,
    pub(crate) y: View<'a>,
    pub(crate) mean: Option<View<'a>>,
    pub(crate) rstd: Option<View<'a>>,
}

// SAFETY: the pointers are read only, and valid during the run.
unsafe impl Sync for Forward<'_> {}

impl Forward<'_> {
    /// Runs over all rows.
    pub(crate) fn run<const CENTERED: bool>(mut self, cpu: &Cpu<'_>) {
        (self.x, self.y) = (self.x.collapsed(), self.y.collapsed());
        let rows_per_task = (TASK / self.x.width().max(1)).max(1);
        with_float!(self.x.dtype(), T => {
            cpu.parallel_chunks(self.x.row_count(), rows_per_task, |rows, _| {
                cpu.dispatch(ForwardRows::<T, CENTERED> { op: &self, rows, element: PhantomData });
            });
        });
    }
}

struct ForwardRows<'a, T, const CENTERED: bool> {
    op: &'a Forward<'a>,
    rows: Range<usize>,
    element: PhantomData<T>,
}

impl<T: Element, const CENTERED: bool> Kernel for ForwardRows<'_, T, CENTERED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let op = self.op;
        let width = op.x.width();
        for row in self.rows {
            // SAFETY: the row lies in every view, which the op's check made the same row or apart; the parameters
            // have `width` elements; no other task has this row.
            unsafe {
                let (x, y) = (op.x.row_ptr::<T>(row), op.y.row_ptr::<T>(row));
                let (mean, rstd) = statistics::<S, T, CENTERED>(s, x, width, op.epsilon);
                normalise::<S, T, CENTERED>(s, x, width, mean, rstd, op.weight, op.bias, y);
                if let Some(view) = op.mean {
                    view.element_ptr::<f32>(row).write(mean);
                }
                if let Some(view) = op.rstd {
                    view.element_ptr::<f32>(row).write(rstd);
                }
            }
        }
    }
}

/// Mean (0 when not centered) and 1 / sqrt(mean square distance from it + epsilon) of one row.
#[inline(always)]
unsafe fn statistics<S: Simd, T: Element, const CENTERED: bool>(
    s: S,
    x: *const T,
    width: usize,
    epsilon: f32,
) -> (f32, f32) {
    let n = width.max(1) as f32;
    let mut mean = 0.0;
    if CENTERED {
        let mut sums = [s.splat(0.0); UNROLL];
        each_vector!(S, width, |at, span, k| {
            // SAFETY: the row has `width` elements.
            let x = unsafe { span.load(s, x.add(at)) };
            sums[k] = s.add(sums[k], x);
        });
        mean = total(s, sums) / n;
    }
    let shift = s.splat(mean);
    let mut squares = [s.splat(0.0); UNROLL];
    each_vector!(S, width, |at, span, k| {
        // SAFETY: as above.
        let mut x = unsafe { span.load(s, x.add(at)) };
        if CENTERED {
            x = span.keep(s, s.sub(x, shift), 0.0);
        }
        squares[k] = s.fast_fma(x, x, squares[k]);
    });
    (mean, 1.0 / (total(s, squares) / n + epsilon).sqrt())
}

#[inline(always)]
unsafe fn normalise<S: Simd, T: Element, const CENTERED: bool>(
    s: S,
    x: *const T,
    width: usize,
    mean: f32,
    rstd: f32,
    weight: *const f32,
    bias: *const f32,
    y: *mut T,
) {
    let (shift, factor) = (s.splat(mean), s.splat(rstd));
    each_vector!(S, width, |at, span| {
        // SAFETY: rows and parameters have `width` elements.
        unsafe {
            let x = span.load(s, x.add(at));
            let w = span.load(s, weight.add(at));
            let out = if CENTERED {
                s.fast_fma(s.mul(s.sub(x, shift), factor), w, span.load(s, bias.add(at)))
            } else {
                s.mul(s.mul(x, factor), w)
            };
            span.store(s, y.add(at), out);
        }
    });
}

/// The backward pass. With xhat = (x - mean) rstd (mean 0 when not centered) and g = dy weight:
/// dx = rstd (g - mean(g) - xhat mean(g xhat)), without mean(g) when not centered; dweight = sum over rows of dy xhat;
/// dbias = sum over rows of dy.
pub(crate) struct Backward<'a> {
    pub(crate) dy: View<'a>,
    pub(crate) x: View<'a>,
    pub(crate) weight: Option<View<'a>>,
    /// Present when centered.
    pub(crate) mean: Option<View<'a>>,
    pub(crate) rstd: View<'a>,
    pub(crate) dx: View<'a>,
    pub(crate) dweight: Option<View<'a>>,
    pub(crate) dbias: Option<View<'a>>,
    pub(crate) accumulate: bool,
}

impl Backward<'_> {
    fn blocks(&self) -> Range<usize> {
        let rows = self.x.row_count();
        let blocks = rows.div_ceil(self.rows_per_block());
        // Without parameter gradients blocks need no sums.
        0..if self.dweight.is_some() || self.dbias.is_some() { blocks } else { 0 }
    }

    fn rows_per_block(&self) -> usize {
        self.x.row_count().div_ceil(MOST_BLOCKS).max(LEAST_ROWS)
    }

    /// Floats of partial sums of one block: of dweight, and of dbias when centered.
    fn partial_floats(&self, centered: bool) -> usize {
        self.x.width() * if centered { 2 } else { 1 }
    }

    /// Bytes of workspace.
    pub(crate) fn workspace(&self, centered: bool) -> usize {
        let partials = self.blocks().len() * self.partial_floats(centered);
        (parameter_floats(&self.weight, self.x.width()) + partials) * size_of::<f32>()
    }

    /// Runs over all rows, then adds up the parameter gradients.
    pub(crate) fn run<const CENTERED: bool>(mut self, cpu: &Cpu<'_>) {
        let width = self.x.width();
        (self.x, self.dy, self.dx) = (self.x.collapsed(), self.dy.collapsed(), self.dx.collapsed());
        let mut space = cpu.workspace(self.workspace(CENTERED)).cast::<f32>();
        // SAFETY: the workspace begins with the parameter and goes on with the partial sums.
        let weight = Shared(unsafe { parameter(cpu, &self.weight, width, 1.0, &mut space) }.cast_mut());
        let partials = Shared(space);
        let blocks = self.blocks().len();
        let stride = self.partial_floats(CENTERED);
        with_float!(self.x.dtype(), T => {
            cpu.parallel_chunks(self.x.row_count(), self.rows_per_block(), |rows, _| {
                // The i-th block has the i-th `stride` floats of the partial sums, where there are any.
                let partial = partials.at(rows.start / self.rows_per_block() * stride);
                let (op, weight) = (&self, weight.at(0).cast_const());
                if blocks > 0 {
                    cpu.dispatch(BackwardRows::<T, CENTERED, true> { op, weight, rows, partial, element: PhantomData });
                } else {
                    cpu.dispatch(BackwardRows::<T, CENTERED, false> { op, weight, rows, partial, element: PhantomData });
                }
            });
        });
        for (gradient, first) in [(self.dweight, 0), (self.dbias, width)] {
            let Some(gradient) = gradient else { continue };
            with_float!(gradient.dtype(), T => cpu.parallel_chunks(width, COLUMNS, |columns, _| {
                let partials = partials.at(first + columns.start).cast_const();
                // SAFETY: the columns lie in the gradient.
                let out = unsafe { gradient.ptr::<T>().add(columns.start) };
                let accumulate = self.accumulate;
                cpu.dispatch(AddPartials { partials, stride, blocks, out, n: columns.len(), accumulate });
            }));
        }
    }
}

/// A pointer into the workspace, of which each task uses its own part or which all only read.
struct Shared(*mut f32);

// SAFETY: see the type.
unsafe impl Sync for Shared {}

impl Shared {
    /// The address of the float `offset` floats on.
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

struct BackwardRows<'a, T, const CENTERED: bool, const PARAMETERS: bool> {
    op: &'a Backward<'a>,
    weight: *const f32,
    rows: Range<usize>,
    partial: *mut f32,
    element: PhantomData<T>,
}

impl<T: Element, const CENTERED: bool, const PARAMETERS: bool> Kernel for BackwardRows<'_, T, CENTERED, PARAMETERS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (op, weight) = (self.op, self.weight);
        let width = op.x.width();
        let scale = 1.0 / width.max(1) as f32;
        let dweight = self.partial;
        let dbias = self.partial.wrapping_add(width);
        if PARAMETERS {
            // SAFETY: the block's partial sums are this task's; all zero bits are 0.0.
            unsafe { std::ptr::write_bytes(self.partial, 0, op.partial_floats(CENTERED)) };
        }
        for row in self.rows {
            let (x, dy, dx) = (op.x.row_ptr::<T>(row), op.dy.row_ptr::<T>(row), op.dx.row_ptr::<T>(row));
            // SAFETY: the statistics have one element for each row.
            let (mean, rstd) = unsafe {
                let mean = op.mean.map_or(0.0, |mean| mean.element_ptr::<f32>(row).read());
                (s.splat(mean), s.splat(op.rstd.element_ptr::<f32>(row).read()))
            };
            let mut sum_g = [s.splat(0.0); UNROLL];
            let mut sum_gx = [s.splat(0.0); UNROLL];
            each_vector!(S, width, |at, span, k| {
                // SAFETY: rows, weight and partial sums have `width` elements; the partial sums are this task's.
                unsafe {
                    let dy = span.load(s, dy.add(at));
                    let xhat = xhat::<S, CENTERED>(s, span.load(s, x.add(at)), mean, rstd);
                    let g = s.mul(dy, span.load(s, weight.add(at)));
                    if CENTERED {
                        sum_g[k] = s.add(sum_g[k], g);
                    }
                    sum_gx[k] = s.fast_fma(g, xhat, sum_gx[k]);
                    if PARAMETERS {
                        let (w, b) = (dweight.add(at), dbias.add(at));
                        span.store(s, w, s.fast_fma(dy, xhat, span.load(s, w.cast_const())));
                        if CENTERED {
                            span.store(s, b, s.add(dy, span.load(s, b.cast_const())));
                        }
                    }
                }
            });
            let mean_g = s.splat(if CENTERED { total(s, sum_g) * scale } else { 0.0 });
            let mean_gx = s.splat(total(s, sum_gx) * scale);
            each_vector!(S, width, |at, span| {
                // SAFETY: as above; dx is dy, or x, or apart from both.
                unsafe {
                    let xhat = xhat::<S, CENTERED>(s, span.load(s, x.add(at)), mean, rstd);
                    let mut g = s.mul(span.load(s, dy.add(at)), span.load(s, weight.add(at)));
                    if CENTERED {
                        g = s.sub(g, mean_g);
                    }
                    let d = s.fast_fma(s.neg(xhat), mean_gx, g);
                    span.store(s, dx.add(at), s.mul(d, rstd));
                }
            });
        }
    }
}

#[inline(always)]
fn xhat<S: Simd, const CENTERED: bool>(s: S, x: S::F, mean: S::F, rstd: S::F) -> S::F {
    s.mul(if CENTERED { s.sub(x, mean) } else { x }, rstd)
}

/// out (+)= the partial sums of all blocks, first to last.
struct AddPartials<T> {
    partials: *const f32,
    stride: usize,
    blocks: usize,
    out: *mut T,
    n: usize,
    accumulate: bool,
}

impl<T: Element> Kernel for AddPartials<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each_vector!(S, self.n, |at, span| {
            let mut sum = s.splat(0.0);
            for block in 0..self.blocks {
                // SAFETY: n columns of each block's partial sums.
                sum = s.add(sum, unsafe { span.load(s, self.partials.add(block * self.stride + at)) });
            }
            // SAFETY: the gradient has n elements from `out` on.
            unsafe {
                let out = self.out.add(at);
                if self.accumulate {
                    sum = s.add(span.load(s, out.cast_const()), sum);
                }
                span.store(s, out, sum);
            }
        });
    }
}
