use super::CrossEntropy;
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::dtype::DType;
use crate::view::View;

/// Bytes of an access.
const ACCESS: usize = 16;
/// Shared memory that the kernel has besides the row, and more.
const OTHER_SHARED_BYTES: usize = 512;
/// Packs of a row for each thread, about, until a block has enough threads for two blocks to share a multiprocessor.
const PACKS: usize = 4;

/// `Parameters` of cross_entropy.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    logits: Strided,
    dlogits: Strided,
    targets: Strided,
    losses: Strided,
    loss_scale: u64,
    first: i64,
    rows: i64,
    v: i64,
    kept: i64,
    gradient_scale: f32,
    ignore_index: i32,
}

/// Rows of logits `[.., v]` that become losses and gradients.
pub(crate) struct Rows<'a> {
    pub(crate) logits: View<'a>,
    /// Of the dtype of the logits, or narrower and beginning where each row of them begins, or apart.
    pub(crate) dlogits: Option<View<'a>>,
    /// Of more rows than there are, perhaps: `first` is the one of the first row of logits.
    pub(crate) targets: View<'a>,
    pub(crate) losses: View<'a>,
    pub(crate) first: usize,
    pub(crate) ignore_index: i32,
    pub(crate) gradient_scale: f32,
    pub(crate) loss_scale: Option<View<'a>>,
}

impl Rows<'_> {
    /// Enqueues the kernel.
    pub(crate) fn run(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        let (rows, v, dtype) = (self.logits.row_count(), self.logits.width(), self.logits.dtype());
        if rows == 0 {
            return Ok(());
        }
        let packs = (v * dtype.size()).div_ceil(ACCESS) + 1;
        let threads = match packs {
            8192.. => 1024,
            2048.. => 512,
            _ => packs.div_ceil(PACKS).next_power_of_two().clamp(32, 256),
        };
        let space = (gpu.properties().shared_bytes as usize).saturating_sub(OTHER_SHARED_BYTES) / ACCESS;
        let kept = if self.dlogits.is_some() { packs.min(space) } else { 0 };
        let parameters = Parameters {
            logits: Strided::rows(&self.logits),
            dlogits: Strided::rows_of(&self.dlogits),
            targets: Strided::elements(&self.targets),
            losses: Strided::elements(&self.losses),
            loss_scale: self.loss_scale.map_or(0, |scale| scale.data() as u64),
            first: self.first as i64,
            rows: rows as i64,
            v: v as i64,
            kept: kept as i64,
            gradient_scale: self.gradient_scale,
            ignore_index: self.ignore_index,
        };
        let name = match (dtype, self.dlogits.map_or(dtype, |dlogits| dlogits.dtype())) {
            (DType::BF16, _) => "cross_entropy_bf16",
            (DType::F16, _) => "cross_entropy_f16",
            (_, DType::BF16) => "cross_entropy_f32_to_bf16",
            (_, DType::F16) => "cross_entropy_f32_to_f16",
            _ => "cross_entropy_f32",
        };
        let blocks = rows.min(i32::MAX as usize) as u32;
        let launch = Launch { shared_bytes: (kept * ACCESS) as u32, ..Launch::linear(blocks, threads as u32) };
        // SAFETY: the parameters are those of cross_entropy.cu, and the views' memory outlives the work, as their maker
        // promised.
        unsafe { gpu.launch("cross_entropy", name, launch, &parameters) }
    }
}

pub(super) fn run(op: &CrossEntropy<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    Rows {
        logits: op.logits,
        dlogits: op.dlogits.filter(|dlogits| dlogits.numel() > 0),
        targets: op.targets,
        losses: op.losses,
        first: 0,
        ignore_index: op.ignore_index,
        gradient_scale: op.gradient_scale,
        loss_scale: op.loss_scale,
    }
    .run(gpu)
}
