//! The backward row kernel of layer norm and of RMS norm.

use super::rows::{arrange, dispatch, padded};
use crate::backend::cpu::pair::{Paired, store_in_order};
use crate::backend::cpu::span::{Span, each_pair, each_vector};
use crate::backend::cpu::{Cpu, Element, Kernel, MOST_LANES, Simd, plain_nan, prefetch};
use crate::dtype::DType;
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Most blocks of rows, each with its own partial sums.
const MOST_BLOCKS: usize = 64;

/// Least rows of a block: its partial sums cost about one row of traffic.
const LEAST_ROWS: usize = 16;

/// Columns of a task that adds up partial sums.
const COLUMNS: usize = 512;

/// With xhat = (x - mean) rstd (mean 0 when not centered) and g = dy weight:
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
    /// Blocks that have partial sums: without parameter gradients none has.
    fn blocks(&self) -> usize {
        let blocks = self.x.row_count().div_ceil(self.rows_per_block());
        if self.dweight.is_some() || self.dbias.is_some() { blocks } else { 0 }
    }

    fn rows_per_block(&self) -> usize {
        self.x.row_count().div_ceil(MOST_BLOCKS).max(LEAST_ROWS)
    }

    /// Floats of partial sums of one block: of dweight, and of dbias when centered.
    fn partial_floats(&self, centered: bool) -> usize {
        padded(self.x.width()) * if centered { 2 } else { 1 }
    }

    /// Bytes of workspace: the weight and the partial sums, in the order in which rows are computed.
    pub(crate) fn workspace(&self, centered: bool) -> usize {
        (padded(self.x.width()) + self.blocks() * self.partial_floats(centered)) * size_of::<f32>()
    }

    /// Runs over all rows, then adds up the parameter gradients.
    pub(crate) fn run<const CENTERED: bool>(mut self, cpu: &Cpu<'_>) {
        let width = self.x.width();
        (self.x, self.dy, self.dx) = (self.x.collapsed(), self.dy.collapsed(), self.dx.collapsed());
        let space = Shared(cpu.workspace(self.workspace(CENTERED)).cast::<f32>());
        let (blocks, stride) = (self.blocks(), self.partial_floats(CENTERED));
        with_float!(self.x.dtype(), T => {
            // SAFETY: the workspace begins with the weight and goes on with the partial sums.
            unsafe { arrange::<T>(cpu, &self.weight, width, 1.0, space.at(0)) };
            cpu.parallel_chunks(self.x.row_count(), self.rows_per_block(), |rows, _| {
                let (op, weight) = (&self, space.at(0).cast_const());
                // The i-th block has the i-th `stride` floats of the partial sums, where there are any.
                let partial = space.at(padded(width) + rows.start / self.rows_per_block() * stride);
                if blocks > 0 {
                    dispatch::<T, _>(cpu, Rows::<T, CENTERED, true> { op, weight, rows, partial, element: PhantomData });
                } else {
                    dispatch::<T, _>(cpu, Rows::<T, CENTERED, false> { op, weight, rows, partial, element: PhantomData });
                }
            });
            for (gradient, first) in [(self.dweight, padded(width)), (self.dbias, 2 * padded(width))] {
                let Some(gradient) = gradient else { continue };
                with_float!(gradient.dtype(), G => cpu.parallel_chunks(width, COLUMNS, |columns, _| {
                    let partials = space.at(first + columns.start).cast_const();
                    // SAFETY: the columns lie in the gradient.
                    let out = unsafe { gradient.ptr::<G>().add(columns.start) };
                    let (n, accumulate, order) = (columns.len(), self.accumulate, PhantomData::<T>);
                    cpu.dispatch(AddPartials { partials, stride, blocks, out, n, accumulate, order });
                }));
            }
        });
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

struct Rows<'a, T, const CENTERED: bool, const PARAMETERS: bool> {
    op: &'a Backward<'a>,
    /// Of the padded width, as the partial sums of dweight and, when centered, of dbias behind them.
    weight: *const f32,
    rows: Range<usize>,
    partial: *mut f32,
    element: PhantomData<T>,
}

impl<T: Paired, const CENTERED: bool, const PARAMETERS: bool> Kernel for Rows<'_, T, CENTERED, PARAMETERS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if PARAMETERS {
            // SAFETY: the block's partial sums are this task's; all zero bits are 0.0.
            unsafe { std::ptr::write_bytes(self.partial, 0, self.op.partial_floats(CENTERED)) };
        }
        let mut row = self.rows.start;
        // Several rows for each access to weight and partial sums: as many as the registers have sums for.
        if S::REGISTERS >= 32 {
            while self.rows.end - row >= 4 {
                self.group::<S, 4>(s, row);
                row += 4;
            }
        }
        while self.rows.end - row >= 2 {
            self.group::<S, 2>(s, row);
            row += 2;
        }
        if row < self.rows.end {
            self.group::<S, 1>(s, row);
        }
    }
}

impl<T: Paired, const CENTERED: bool, const PARAMETERS: bool> Rows<'_, T, CENTERED, PARAMETERS> {
    /// R rows from `first` on. How rows are grouped may show in denormals of dx, nowhere else.
    #[inline(always)]
    fn group<S: Simd, const R: usize>(&self, s: S, first: usize) {
        let (op, weight) = (self.op, self.weight);
        let width = op.x.width();
        let scale = 1.0 / width.max(1) as f32;
        let (dweight, dbias) = (self.partial, self.partial.wrapping_add(padded(width)));
        let (mut x, mut dy) = ([std::ptr::null(); R], [std::ptr::null(); R]);
        let (mut mean, mut rstd) = ([0.0; R], [0.0; R]);
        for r in 0..R {
            let row = first + r;
            (x[r], dy[r]) = (op.x.row_ptr::<T>(row).cast_const(), op.dy.row_ptr::<T>(row).cast_const());
            // SAFETY: the statistics have one element for each row.
            unsafe {
                mean[r] = plain_nan(op.mean.map_or(0.0, |mean| mean.element_ptr::<f32>(row).read()));
                rstd[r] = plain_nan(op.rstd.element_ptr::<f32>(row).read());
            }
        }
        // Hints of what comes next, spread over both passes: rows are taken to be as far apart as the first ones.
        let next = op.x.row_ptr::<T>((first + R).min(self.rows.end - 1));
        let ahead = (next as usize).wrapping_sub(x[0] as usize);
        let mut sum_g = [s.splat(0.0); R];
        let mut sum_gx = [s.splat(0.0); R];
        each_pair!(S, 0..width, |at, span| {
            // SAFETY: rows have `width` elements, weight and partial sums, which are this task's, the padded width.
            unsafe {
                let w = load_two(s, weight.add(at));
                let (mut dw, mut db) = ([s.splat(0.0); 2], [s.splat(0.0); 2]);
                if PARAMETERS {
                    dw = load_two(s, dweight.add(at));
                    if CENTERED {
                        db = load_two(s, dbias.add(at));
                    }
                }
                for r in 0..R {
                    prefetch(x[r].wrapping_add(at).wrapping_byte_add(ahead));
                    let (x, dy) = (span.load_pair(s, x[r].add(at)), span.load_pair(s, dy[r].add(at)));
                    for half in 0..2 {
                        let xhat = s.mul(centered::<S, CENTERED>(s, x[half], mean[r]), s.splat(rstd[r]));
                        let product = s.mul(dy[half], xhat);
                        sum_gx[r] = s.fast_fma(product, w[half], sum_gx[r]);
                        dw[half] = s.add(dw[half], product);
                        if CENTERED {
                            sum_g[r] = s.fast_fma(dy[half], w[half], sum_g[r]);
                            db[half] = s.add(db[half], dy[half]);
                        }
                    }
                }
                if PARAMETERS {
                    store_two(s, dweight.add(at), dw);
                    if CENTERED {
                        store_two(s, dbias.add(at), db);
                    }
                }
            }
        });
        // dx = rstd (dy weight - mean(g) - (x - mean) slope).
        let mut rows = [RowTerms::default(); R];
        let mut normal = true;
        for r in 0..R {
            let (mean_g, mean_gx) = (s.sum(sum_g[r]) * scale, s.sum(sum_gx[r]) * scale);
            // The tolerance of dx exceeds 2^-19 of this: far more than the denormals.
            normal &= rstd[r] * mean_g.abs().max(mean_gx.abs()) > 1e-30;
            rows[r] = RowTerms { mean: mean[r], minus_mean_g: -mean_g, minus_slope: -mean_gx * rstd[r], rstd: rstd[r] };
        }
        if S::HAS_DOT_BF16 && T::DTYPE == DType::BF16 && normal {
            self.write_dx::<S, R, true>(s, first, x, dy, rows);
        } else {
            self.write_dx::<S, R, false>(s, first, x, dy, rows);
        }
    }

    #[inline(always)]
    fn write_dx<S: Simd, const R: usize, const NORMAL: bool>(
        &self,
        s: S,
        first: usize,
        x: [*const T; R],
        dy: [*const T; R],
        rows: [RowTerms; R],
    ) {
        let (op, weight) = (self.op, self.weight);
        let next = op.dy.row_ptr::<T>((first + R).min(self.rows.end - 1));
        let ahead = (next as usize).wrapping_sub(dy[0] as usize);
        let next = op.dx.row_ptr::<T>((first + R).min(self.rows.end - 1));
        let ahead_dx = (next as usize).wrapping_sub(op.dx.row_ptr::<T>(first) as usize);
        let mut dx = [std::ptr::null_mut(); R];
        for r in 0..R {
            dx[r] = op.dx.row_ptr::<T>(first + r);
        }
        each_pair!(S, 0..op.x.width(), |at, span| {
            // SAFETY: as in `group`; dx is dy, or x, or apart from both.
            unsafe {
                let w = load_two(s, weight.add(at));
                let mut loaded = [(w, w); R];
                for r in 0..R {
                    prefetch(dy[r].wrapping_add(at).wrapping_byte_add(ahead));
                    prefetch(dx[r].wrapping_add(at).wrapping_byte_add(ahead_dx));
                    loaded[r] = (span.load_pair(s, x[r].add(at)), span.load_pair(s, dy[r].add(at)));
                }
                for r in 0..R {
                    let (x, dy) = loaded[r];
                    let terms = &rows[r];
                    let mut out = x;
                    for half in 0..2 {
                        let g = if CENTERED {
                            s.fast_fma(dy[half], w[half], s.splat(terms.minus_mean_g))
                        } else {
                            s.mul(dy[half], w[half])
                        };
                        let distance = centered::<S, CENTERED>(s, x[half], terms.mean);
                        let d = s.fast_fma(distance, s.splat(terms.minus_slope), g);
                        out[half] = s.mul(d, s.splat(terms.rstd));
                    }
                    span.store_pair::<S, T, NORMAL>(s, dx[r].add(at), out);
                }
            }
        });
    }
}

/// What the elements of a row of dx have in common.
#[derive(Clone, Copy, Default)]
struct RowTerms {
    mean: f32,
    /// -mean(g).
    minus_mean_g: f32,
    /// -mean(g xhat) rstd.
    minus_slope: f32,
    rstd: f32,
}

#[inline(always)]
fn centered<S: Simd, const CENTERED: bool>(s: S, x: S::F, mean: f32) -> S::F {
    if CENTERED { s.sub(x, s.splat(mean)) } else { x }
}

/// # Safety
/// `p` is valid for reads of 2 LANES floats.
#[inline(always)]
unsafe fn load_two<S: Simd>(s: S, p: *const f32) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe { [s.load(p), s.load(p.add(S::LANES))] }
}

/// # Safety
/// `p` is valid for writes of 2 LANES floats.
#[inline(always)]
unsafe fn store_two<S: Simd>(s: S, p: *mut f32, x: [S::F; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        s.store(p, x[0]);
        s.store(p.add(S::LANES), x[1]);
    }
}

/// out (+)= the partial sums of all blocks, first to last, which are in the order of pairs of T.
struct AddPartials<G, T> {
    partials: *const f32,
    stride: usize,
    blocks: usize,
    out: *mut G,
    n: usize,
    accumulate: bool,
    order: PhantomData<T>,
}

impl<G: Element, T: Paired> Kernel for AddPartials<G, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut at = 0;
        while at < self.n {
            let mut sums = [s.splat(0.0); 2];
            for block in 0..self.blocks {
                // SAFETY: each block's partial sums have the padded width.
                let partial = unsafe { load_two(s, self.partials.add(block * self.stride + at)) };
                sums = [s.add(sums[0], partial[0]), s.add(sums[1], partial[1])];
            }
            let mut floats = [0.0; 2 * MOST_LANES];
            // SAFETY: the array holds two vectors of any level.
            unsafe { store_in_order::<S, T>(s, floats.as_mut_ptr(), sums) };
            each_vector!(S, (self.n - at).min(2 * S::LANES), |k, span| {
                // SAFETY: the gradient has n elements from `out` on, and the array those of this step.
                unsafe {
                    let out = self.out.add(at + k);
                    let mut sum = span.load(s, floats.as_ptr().add(k));
                    if self.accumulate {
                        sum = s.add(span.load(s, out.cast_const()), sum);
                    }
                    span.store(s, out, sum);
                }
            });
            at += 2 * S::LANES;
        }
    }
}
