use super::{Dequantize, Quantize};
use crate::backend::cuda::{CudaError, Gpu, Launch};
use crate::dynamic_map::{BLOCK, DynamicMap, Sign};
use crate::view::View;

/// Threads of a block, as in blockwise.cu.
const THREADS: u32 = 256;

/// Most blocks for each multiprocessor.
const BLOCKS: u32 = 16;

/// `Parameters` of blockwise.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    f32s: u64,
    codes: u64,
    absmax: u64,
    numel: u64,
    /// Whether a lane's elements are aligned to its accesses.
    aligned: i64,
    map: DynamicMap,
    padding: u32,
}

fn launch(
    gpu: &Gpu<'_>,
    kernel: &'static str,
    sign: Sign,
    f32s: View<'_>,
    codes: View<'_>,
    absmax: View<'_>,
) -> Result<(), CudaError> {
    let numel = f32s.numel();
    if numel == 0 {
        return Ok(());
    }
    let address = |view: View<'_>| view.data() as u64;
    let parameters = Parameters {
        f32s: address(f32s),
        codes: address(codes),
        absmax: address(absmax),
        numel: numel as u64,
        aligned: (address(f32s).is_multiple_of(16) && address(codes).is_multiple_of(8)).into(),
        map: *DynamicMap::of(sign),
        padding: 0,
    };
    let warps = (THREADS / 32) as usize;
    let blocks = gpu.blocks(numel.div_ceil(BLOCK).div_ceil(warps), BLOCKS);
    // SAFETY: the parameters are those of blockwise.cu, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch("blockwise", kernel, Launch::linear(blocks, THREADS), &parameters) }
}

pub(super) fn quantize(op: &Quantize<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    launch(gpu, "quantize", op.sign, op.x, op.codes, op.absmax)
}

pub(super) fn dequantize(op: &Dequantize<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    launch(gpu, "dequantize", op.sign, op.y, op.codes, op.absmax)
}
