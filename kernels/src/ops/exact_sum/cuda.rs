use super::ExactSum;
use crate::backend::cuda::{CudaError, Gpu, Launch, Strided};
use crate::by_dtype;
use crate::exact_sum::BLOCK;
use crate::view::View;

/// Threads of a block of the kernels that sum, and the elements that they take at a time: eight blocks a warp.
pub(crate) const THREADS: u32 = 128;
pub(crate) const ELEMENTS: usize = THREADS as usize / 32 * 8 * BLOCK;

/// `Parameters` of exact_sum.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    x: Strided,
    rows: i64,
    width: i64,
    accumulator: u64,
}

/// `CarryParameters` of exact_sum.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct CarryParameters {
    accumulator: u64,
}

pub(super) fn run(op: &ExactSum<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let x = op.x.flattened();
    if x.numel() == 0 {
        return carry(gpu, &op.accumulator);
    }
    let parameters = Parameters {
        x: Strided::rows(&x),
        rows: x.row_count() as i64,
        width: x.width() as i64,
        accumulator: op.accumulator.data() as u64,
    };
    let kernel = if op.square { by_dtype!("exact_sum_squares", x.dtype()) } else { by_dtype!("exact_sum", x.dtype()) };
    let blocks = gpu.blocks(x.numel().div_ceil(ELEMENTS), 8);
    // SAFETY: the parameters are those of exact_sum.cu, and the views' memory outlives the work, as their makers
    // promised.
    unsafe { gpu.launch("exact_sum", kernel, Launch::linear(blocks, THREADS), &parameters) }?;
    carry_after(gpu, blocks, &op.accumulator)
}

/// Enqueues what is left to do after `blocks` blocks have added to the accumulator: one alone has carried it.
pub(crate) fn carry_after(gpu: &Gpu<'_>, blocks: u32, accumulator: &View<'_>) -> Result<(), CudaError> {
    if blocks == 1 { Ok(()) } else { carry(gpu, accumulator) }
}

/// Enqueues carrying the accumulator.
pub(crate) fn carry(gpu: &Gpu<'_>, accumulator: &View<'_>) -> Result<(), CudaError> {
    let parameters = CarryParameters { accumulator: accumulator.data() as u64 };
    // SAFETY: the accumulator has 68 words, as the operation's check required, and outlives the work.
    unsafe { gpu.launch("exact_sum", "exact_sum_carry", Launch::linear(1, 32), &parameters) }
}
