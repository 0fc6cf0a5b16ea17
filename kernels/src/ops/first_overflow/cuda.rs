use super::FirstOverflow;
use crate::backend::cuda::{CudaError, Gpu, Launch};
use crate::by_dtype;

/// Threads of a block of the kernel that sums.
const THREADS: u32 = 128;

/// `Parameters` of first_overflow.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    gradient: u64,
    numel: i64,
    ranges: u64,
    parameters: i64,
    control: u64,
    ranks: u64,
    micro: u32,
    padding: u32,
}

pub(super) fn run(op: &FirstOverflow<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let count = op.parameters();
    if count == 0 {
        return Ok(());
    }
    let parameters = Parameters {
        gradient: op.gradient.data() as u64,
        numel: op.gradient.numel() as i64,
        ranges: op.ranges.data() as u64,
        parameters: count as i64,
        control: op.control.data() as u64,
        ranks: gpu.workspace(count * size_of::<u64>()),
        micro: op.micro,
        padding: 0,
    };
    let kernel = by_dtype!("first_overflow_ranks", op.gradient.dtype());
    let blocks = gpu.blocks(count, 8);
    // SAFETY: the parameters are those of first_overflow.cu, and the views' memory and the workspace outlive the work.
    unsafe {
        gpu.launch("first_overflow", kernel, Launch::linear(blocks, THREADS), &parameters)?;
        gpu.launch("first_overflow", "first_overflow_choose", Launch::linear(1, 32), &parameters)
    }
}
