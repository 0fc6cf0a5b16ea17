use super::Fill;
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::by_dtype;

/// `Parameters` of fill.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    y: Strided,
    rows: i64,
    width: i64,
    value: f32,
    padding: u32,
}

pub(super) fn run(op: &Fill<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    if op.y.numel() == 0 {
        return Ok(());
    }
    let y = op.y.flattened();
    let (rows, width) = (y.row_count(), y.width());
    let parameters =
        Parameters { y: Strided::rows(&y), rows: rows as i64, width: width as i64, value: op.value, padding: 0 };
    let blocks = gpu.blocks(y.numel().div_ceil(1024), 16);
    // SAFETY: the parameters are those of fill.cu, and the view's memory outlives the work, as the view's maker promised.
    unsafe { gpu.launch("fill", by_dtype!("fill", y.dtype()), Launch::linear(blocks, 256), &parameters) }
}
