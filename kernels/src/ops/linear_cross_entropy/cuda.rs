use super::LinearCrossEntropy;
use super::cpu::{part_of, run_rows};
use crate::backend::cuda::{CudaError, DevicePointer, Gpu, Launch, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::ops::cross_entropy::cuda::Rows;
use crate::ops::gemm::Gemm;
use crate::view::View;
use std::ops::Range;

/// Logits of a chunk, unless they are fewer than LEAST_ROWS rows: enough rows for the products to fill a device, and for
/// the gradient of the weight, which each chunk reads and writes, to matter little.
const CHUNK: usize = 1 << 26;
const LEAST_ROWS: usize = 128;

/// From row to row of the logits, in f32: a whole number of cache lines.
fn stride(op: &LinearCrossEntropy<'_>) -> usize {
    op.weight.row_count().next_multiple_of(32).max(32)
}

fn chunk_rows(op: &LinearCrossEntropy<'_>) -> usize {
    (CHUNK / stride(op)).max(LEAST_ROWS).min(op.x.row_count().max(1))
}

/// `Parameters` of linear_cross_entropy.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    factors: u64,
    loss_scale: u64,
    gradient_scale: f32,
    padding: u32,
}

/// Where things are in the workspace, in bytes.
struct Space {
    /// The factors of the products, which only the device knows: [g, 0], then [g, 1].
    factors: usize,
    logits: usize,
    products: usize,
}

impl Space {
    fn new(op: &LinearCrossEntropy<'_>) -> Space {
        let logits = Gpu::WORKSPACE_ALIGNMENT;
        let bytes = chunk_rows(op).saturating_mul(stride(op)).saturating_mul(size_of::<f32>());
        Space { factors: 0, logits, products: bytes.saturating_add(logits).next_multiple_of(Gpu::WORKSPACE_ALIGNMENT) }
    }
}

/// The work on a chunk of rows, whose logits are at `logits`.
struct Chunk<'a> {
    logits: Gemm<'a>,
    softmax: Rows<'a>,
    /// dweight, then dx: so dx may overwrite the x that dweight needs.
    gradients: Option<[Gemm<'a>; 2]>,
}

impl<'a> Chunk<'a> {
    fn new(op: &LinearCrossEntropy<'a>, rows: Range<usize>, logits: DevicePointer) -> Chunk<'a> {
        let (v, stride, dtype) = (op.weight.row_count(), stride(op), op.x.dtype());
        let matrix = |dtype: DType, stride: usize| {
            let data = std::ptr::with_exposed_provenance_mut(logits as usize);
            // SAFETY: rows of the workspace, of at least as many columns.
            unsafe { View::new("chunk", data, dtype, &[rows.len(), v], &[stride, 1]) }.expect("it fits into memory")
        };
        let x = part_of(&op.x, &rows);
        let f32_logits = matrix(DType::F32, stride);
        // The gradients of the logits, in the dtype of x, take the place of the logits.
        let dlogits = matrix(dtype, stride * size_of::<f32>() / dtype.size());
        let gradients = op.dx.zip(op.dweight).map(|(dx, dweight)| {
            let beta = if rows.start > 0 || op.accumulate_dweight { 1.0 } else { 0.0 };
            let alpha = op.gradient_scale;
            let dweight = Gemm { alpha, beta, ..Gemm::new(true, false, dlogits, x, dweight) };
            [dweight, Gemm { alpha, ..Gemm::new(false, false, dlogits, op.weight, part_of(&dx, &rows)) }]
        });
        let softmax = Rows {
            logits: f32_logits,
            dlogits: gradients.is_some().then_some(dlogits).filter(|dlogits| dlogits.numel() > 0),
            targets: op.targets,
            losses: op.losses,
            first: rows.start,
            ignore_index: op.ignore_index,
            gradient_scale: 1.0,
            loss_scale: None,
        };
        Chunk { logits: Gemm::new(false, true, x, op.weight, f32_logits), softmax, gradients }
    }

    fn workspace(&self, properties: &Properties) -> usize {
        let gradients = self.gradients.iter().flatten().map(|gemm| gemm.cuda_workspace(properties));
        gradients.max().unwrap_or(0).max(self.logits.cuda_workspace(properties))
    }
}

/// The stretches of rows that are evenly spaced, cut into chunks; without rows one empty chunk, for dweight.
fn chunks(op: &LinearCrossEntropy<'_>) -> impl Iterator<Item = Range<usize>> {
    let (rows, run, chunk) = (op.x.row_count(), run_rows(op), chunk_rows(op));
    (0..rows.max(1)).step_by(run).flat_map(move |first| {
        let end = (first + run).min(rows);
        (first..end.max(first + 1)).step_by(chunk).map(move |start| start..(start + chunk).min(end))
    })
}

pub(super) fn workspace(op: &LinearCrossEntropy<'_>, properties: &Properties) -> usize {
    let (rows, chunk) = (run_rows(op).min(op.x.row_count()), chunk_rows(op));
    let space = Space::new(op);
    // The last chunk may be a shorter one. An address like the workspace's stands for it.
    let of = |rows| Chunk::new(op, rows, Gpu::WORKSPACE_ALIGNMENT as u64).workspace(properties);
    space.products + of(0..chunk.min(rows)).max(of(rows - rows % chunk..rows))
}

pub(super) fn run(op: &LinearCrossEntropy<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let space = Space::new(op);
    let base = gpu.workspace(workspace(op, gpu.properties()));
    let (factors, logits, products) =
        (base + space.factors as u64, base + space.logits as u64, base + space.products as u64);
    let scaled = op.dx.is_some() && op.loss_scale.is_some();
    if let (true, Some(loss_scale)) = (scaled, &op.loss_scale) {
        let loss_scale = loss_scale.data() as u64;
        let parameters = Parameters { factors, loss_scale, gradient_scale: op.gradient_scale, padding: 0 };
        let launch = Launch::linear(1, 32);
        // SAFETY: the parameters are those of linear_cross_entropy.cu; the view's memory outlives the work, as its maker
        // promised, and so does the workspace.
        unsafe { gpu.launch("linear_cross_entropy", "linear_cross_entropy_factors", launch, &parameters) }?;
    }
    for rows in chunks(op) {
        let chunk = Chunk::new(op, rows, logits);
        // SAFETY: `workspace` counted the bytes of these products, whose arguments are parts of checked ones.
        unsafe { chunk.logits.run_on_cuda(gpu, products) }?;
        chunk.softmax.run(gpu)?;
        for gemm in chunk.gradients.iter().flatten() {
            let pair = factors + if gemm.beta == 0.0 { 0 } else { 2 * size_of::<f32>() as u64 };
            // SAFETY: as above; the factors are complete when the products run.
            unsafe { gemm.run_on_cuda_with_factors(gpu, products, if scaled { pair } else { 0 }) }?;
        }
    }
    Ok(())
}
