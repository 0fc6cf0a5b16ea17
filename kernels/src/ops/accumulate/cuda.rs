use super::Accumulate;
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::by_dtypes;
use crate::ops::exact_sum::cuda::{ELEMENTS, THREADS, carry, carry_after};

/// `Parameters` of accumulate.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    x: Strided,
    y: Strided,
    rows: i64,
    width: i64,
    nonfinite: u64,
    square_sum: u64,
    overflow: u64,
    overflow_mark: u64,
}

pub(super) fn run(op: &Accumulate<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let flat = op.x.is_contiguous() && op.y.is_contiguous();
    let (x, y) = if flat { (op.x.flattened(), op.y.flattened()) } else { (op.x, op.y) };
    if x.numel() == 0 {
        return op.square_sum.map_or(Ok(()), |sum| carry(gpu, &sum));
    }
    let parameters = Parameters {
        x: Strided::rows(&x),
        y: Strided::rows(&y),
        rows: x.row_count() as i64,
        width: x.width() as i64,
        nonfinite: op.nonfinite.data() as u64,
        square_sum: op.square_sum.map_or(0, |sum| sum.data() as u64),
        overflow: op.overflow.map_or(0, |record| record.data() as u64),
        overflow_mark: op.overflow_mark,
    };
    let kernel = if op.overwrite {
        by_dtypes!("accumulate_overwrite", y.dtype(), x.dtype())
    } else {
        by_dtypes!("accumulate_add", y.dtype(), x.dtype())
    };
    let blocks = gpu.blocks(x.numel().div_ceil(ELEMENTS), 7);
    // SAFETY: the parameters are those of accumulate.cu, and the views' memory outlives the work, as their makers
    // promised.
    unsafe { gpu.launch("accumulate", kernel, Launch::linear(blocks, THREADS), &parameters) }?;
    op.square_sum.map_or(Ok(()), |sum| carry_after(gpu, blocks, &sum))
}
