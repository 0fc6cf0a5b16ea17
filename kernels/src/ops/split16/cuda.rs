use super::{Join, Split};
use crate::backend::cuda::{CudaError, Gpu, Launch};
use crate::view::View;

/// Threads of a block, as in split16.cu.
const THREADS: u32 = 256;

/// Most blocks for each multiprocessor.
const BLOCKS: u32 = 16;

/// `Parameters` of split16.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    f32s: u64,
    weight: u64,
    remainder: u64,
    numel: u64,
}

fn launch(
    gpu: &Gpu<'_>,
    kernel: &'static str,
    f32s: View<'_>,
    weight: View<'_>,
    remainder: View<'_>,
) -> Result<(), CudaError> {
    let numel = f32s.numel();
    if numel == 0 {
        return Ok(());
    }
    let address = |view: View<'_>| view.data() as u64;
    let (f32s, weight, remainder) = (address(f32s), address(weight), address(remainder));
    let parameters = Parameters { f32s, weight, remainder, numel: numel as u64 };
    let blocks = gpu.blocks(numel.div_ceil(THREADS as usize), BLOCKS);
    // SAFETY: the parameters are those of split16.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("split16", kernel, Launch::linear(blocks, THREADS), &parameters) }
}

pub(super) fn split(op: &Split<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    launch(gpu, "split16", op.x, op.weight, op.remainder)
}

pub(super) fn join(op: &Join<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    launch(gpu, "join16", op.y, op.weight, op.remainder)
}
