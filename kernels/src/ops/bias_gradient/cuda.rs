use super::BiasGradient;
use super::cpu::{block_rows, blocks};
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::by_dtype;

/// Threads of a block: THREADS of bias_gradient.cu; and of a block of the second pass.
const THREADS: u32 = 256;
const FINISH_THREADS: usize = 64;
/// Bytes of an access.
const ACCESS: usize = 16;

/// `Parameters` of bias_gradient.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    dy: Strided,
    sums: u64,
    rows: i64,
    n: i64,
    block_rows: i64,
    dbias: u64,
    accumulate: i64,
}

pub(super) fn run(op: &BiasGradient<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let (rows, n, dtype) = (op.dy.row_count(), op.dy.width(), op.dy.dtype());
    if n == 0 {
        return Ok(());
    }
    let parameters = Parameters {
        dy: Strided::rows(&op.dy),
        sums: gpu.workspace(super::cpu::workspace(op)),
        rows: rows as i64,
        n: n as i64,
        block_rows: block_rows(rows) as i64,
        dbias: op.dbias.data() as u64,
        accumulate: op.accumulate.into(),
    };
    let elements = ACCESS / dtype.size();
    let packed = n.is_multiple_of(elements) && parameters.dy.is_aligned(ACCESS, dtype.size());
    let (name, columns) = if packed {
        (by_dtype!("bias_gradient", dtype), 32 * elements)
    } else {
        (by_dtype!("bias_gradient_scalar", dtype), 32)
    };
    let finish = by_dtype!("bias_gradient_finish", op.dbias.dtype());
    // SAFETY: the parameters are those of bias_gradient.cu; the views' memory outlives the work, as their maker promised,
    // and so does the workspace. The sums are complete when the second kernel runs.
    unsafe {
        if rows > 0 {
            let grid = [n.div_ceil(columns) as u32, blocks(op) as u32, 1];
            gpu.launch("bias_gradient", name, Launch { grid, threads: THREADS, shared_bytes: 0 }, &parameters)?;
        }
        let launch = Launch::linear(n.div_ceil(FINISH_THREADS) as u32, FINISH_THREADS as u32);
        gpu.launch("bias_gradient", finish, launch, &parameters)
    }
}
