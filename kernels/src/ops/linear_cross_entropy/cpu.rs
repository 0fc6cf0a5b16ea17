use super::LinearCrossEntropy;
use crate::backend::cpu::{Cpu, Float, Kernel, Simd};
use crate::dtype::DType;
use crate::ops::cross_entropy::cpu::row;
use crate::ops::cross_entropy::{class, scale};
use crate::ops::gemm::Gemm;
use crate::view::View;
use crate::with_float;
use std::marker::PhantomData;
use std::ops::Range;

/// Logits of a chunk, unless they are fewer than LEAST_ROWS rows: enough rows for the products to be efficient.
const CHUNK: usize = 1 << 24;
const LEAST_ROWS: usize = 64;
/// Words of a chunk's operands that each worker keeps packed: what the products take beside the logits is little.
const KEPT: usize = 1 << 19;
/// Logits of one task of the softmax; rows are never split.
const TASK: usize = 16 * 1024;

/// From row to row of the logits, in f32: a whole number of cache lines.
fn stride(op: &LinearCrossEntropy<'_>) -> usize {
    op.weight.row_count().next_multiple_of(16).max(16)
}

/// Evenly cut, since each chunk packs the whole weight.
fn chunk_rows(op: &LinearCrossEntropy<'_>) -> usize {
    let rows = run_rows(op).min(op.x.row_count()).max(1);
    rows.div_ceil(rows.div_ceil((CHUNK / stride(op)).max(LEAST_ROWS)))
}

/// Rows that are evenly spaced in x and dx, from each multiple of their number on: no chunk is part of two such runs.
pub(super) fn run_rows(op: &LinearCrossEntropy<'_>) -> usize {
    let merge = |view: &View<'_>| view.collapsed().ndim() <= 2;
    let rows =
        if merge(&op.x) && op.dx.as_ref().is_none_or(merge) { op.x.row_count() } else { op.x.shape()[op.x.ndim() - 2] };
    rows.max(1)
}

/// usize::MAX when they overflow it, as the logits of a weight whose rows share memory may: the op's check refuses them.
pub(super) fn logits_bytes(op: &LinearCrossEntropy<'_>) -> usize {
    chunk_rows(op).saturating_mul(stride(op)).saturating_mul(size_of::<f32>())
}

/// Evenly spaced rows of a view, as a matrix.
pub(super) fn part_of<'a>(view: &View<'a>, rows: &Range<usize>) -> View<'a> {
    // Of an empty stretch there is no first row.
    let offset = if rows.is_empty() { 0 } else { view.row_offset(rows.start) };
    let data = view.data().wrapping_add(offset * view.dtype().size());
    let view = view.collapsed();
    let width = view.width();
    let stride = view.ndim().checked_sub(2).map_or(width, |d| view.stride()[d]);
    // SAFETY: rows of a view, whose maker promised them.
    unsafe { View::new("chunk", data, view.dtype(), &[rows.len(), width], &[stride, 1]) }
        .expect("part of a view that has been checked")
}

/// The products for a chunk of rows, whose logits are at `logits`.
struct Products<'a> {
    logits: Gemm<'a>,
    /// dweight, then dx: so dx may overwrite the x that dweight needs.
    gradients: Option<[Gemm<'a>; 2]>,
}

impl<'a> Products<'a> {
    fn new(op: &LinearCrossEntropy<'a>, rows: Range<usize>, logits: *mut f32, scale: f32) -> Products<'a> {
        let v = op.weight.row_count();
        let matrix = |dtype: DType, stride: usize| {
            // SAFETY: rows of the workspace, with at least as many columns.
            unsafe { View::new("chunk", logits.cast(), dtype, &[rows.len(), v], &[stride, 1]) }
                .expect("it fits into memory")
        };
        let part = |view: &View<'a>| part_of(view, &rows);
        let x = part(&op.x);
        // The gradients of the logits, in the dtype of x, take the place of the logits.
        let (dtype, stride) = (op.x.dtype(), stride(op));
        let dlogits = matrix(dtype, stride * size_of::<f32>() / dtype.size());
        let f32_logits = matrix(DType::F32, stride);
        let gradients = op.dx.zip(op.dweight).map(|(dx, dweight)| {
            let beta = if rows.start > 0 || op.accumulate_dweight { 1.0 } else { 0.0 };
            let dweight = Gemm { alpha: scale, beta, ..Gemm::new(true, false, dlogits, x, dweight) };
            [dweight, Gemm { alpha: scale, ..Gemm::new(false, false, dlogits, op.weight, part(&dx)) }]
        });
        Products { logits: Gemm::new(false, true, x, op.weight, f32_logits), gradients }
    }

    fn workspace(&self, workers: usize) -> usize {
        let gradients = self.gradients.iter().flatten().map(|gemm| gemm.workspace_keeping(workers, KEPT));
        gradients.max().unwrap_or(0).max(self.logits.workspace_keeping(workers, KEPT))
    }
}

pub(super) fn workspace(op: &LinearCrossEntropy<'_>, workers: usize) -> usize {
    let (rows, chunk) = (run_rows(op).min(op.x.row_count()), chunk_rows(op));
    // The last chunk may be a shorter one. No logits are read or written to learn the sizes.
    let of = |chunk| Products::new(op, chunk, std::ptr::dangling_mut(), 1.0).workspace(workers);
    logits_bytes(op) + of(0..chunk.min(rows)).max(of(rows - rows % chunk..rows))
}

pub(super) fn run(op: &LinearCrossEntropy<'_>, cpu: &Cpu<'_>) {
    let (rows, v, chunk) = (op.x.row_count(), op.weight.row_count(), chunk_rows(op));
    let logits = cpu.workspace(workspace(op, cpu.workers()));
    // SAFETY: the workspace is that long; logits_bytes is a multiple of the alignment.
    let products_workspace = unsafe { logits.add(logits_bytes(op)) };
    let scale = scale(op.gradient_scale, &op.loss_scale);
    let run = run_rows(op);
    // Without rows there is one empty chunk, for dweight.
    let chunks = (0..rows.max(1)).step_by(run).flat_map(|first| {
        let end = (first + run).min(rows);
        (first..end.max(first + 1)).step_by(chunk).map(move |start| start..(start + chunk).min(end))
    });
    for rows in chunks {
        let products = Products::new(op, rows.clone(), logits.cast(), scale);
        // SAFETY: `workspace` counted the bytes of these products, whose arguments are parts of checked ones.
        unsafe { products.logits.run_keeping(cpu, products_workspace, KEPT) };
        let softmax = Softmax { op, first: rows.start, logits: logits.cast() };
        with_float!(op.x.dtype(), T => cpu.parallel_chunks(rows.len(), (TASK / v.max(1)).max(1), |rows, _| {
            cpu.dispatch(Rows::<T> { softmax: &softmax, rows, dtype: PhantomData });
        }));
        for gemm in products.gradients.iter().flatten() {
            // SAFETY: as above.
            unsafe { gemm.run_keeping(cpu, products_workspace, KEPT) };
        }
    }
}

/// A chunk whose logits become losses and, if asked for, gradients.
struct Softmax<'a> {
    op: &'a LinearCrossEntropy<'a>,
    /// Row of x of the chunk's first row.
    first: usize,
    logits: *mut f32,
}

// SAFETY: tasks use disjoint rows of the logits and the losses.
unsafe impl Sync for Softmax<'_> {}

struct Rows<'a, T> {
    softmax: &'a Softmax<'a>,
    rows: Range<usize>,
    dtype: PhantomData<T>,
}

impl<T: Float> Kernel for Rows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Softmax { op, first, logits } = *self.softmax;
        let v = op.weight.row_count();
        for r in self.rows {
            // SAFETY: the chunk has row r, the views row first + r, and check_elements allows only targets below v.
            // T is no wider than f32, so a gradient is only stored over logits that have been read.
            unsafe {
                let logits = logits.add(r * stride(op));
                let dlogits = if op.dx.is_some() { logits.cast::<T>() } else { std::ptr::null_mut() };
                let target = op.targets.element_ptr::<i32>(first + r).read();
                let loss = match class(target, op.ignore_index) {
                    Some(target) => row(s, logits, v, target, 1.0, dlogits),
                    None => {
                        if !dlogits.is_null() {
                            std::ptr::write_bytes(dlogits, 0, v);
                        }
                        0.0
                    }
                };
                op.losses.element_ptr::<f32>(first + r).write(loss);
            }
        }
    }
}
