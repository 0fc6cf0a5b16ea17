//! The launches that the optimizers share.

use super::{Master, Tensors};
use crate::backend::cuda::elementwise::{Elementwise, Stream};
use crate::backend::cuda::{CudaError, Gpu, Launch};
use crate::dynamic_map::{BLOCK, DynamicMap};
use crate::philox::Key;
use crate::view::View;

/// `Parameters` of optimizer.cuh. A rule has an odd number of words, so that nothing is padded.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters<const N: usize, R> {
    tensors: Elementwise<N>,
    control: u64,
    gradient_scale: f32,
    rule: R,
}

/// Enqueues the kernel over `views`: gradient, master, moments and, where there is one, the weight.
pub(in crate::ops) fn launch<const N: usize, const M: usize, R: Copy>(
    gpu: &Gpu<'_>,
    file: &'static str,
    kernel: &'static str,
    views: [View<'_>; N],
    tensors: &Tensors<'_, M>,
    rule: R,
) -> Result<(), CudaError> {
    let Some((elementwise, launch)) = Elementwise::new(gpu, views) else { return Ok(()) };
    let control = tensors.control.map_or(0, |control| control.data() as u64);
    let gradient_scale = tensors.gradient_scale;
    let parameters = Parameters { tensors: elementwise, control, gradient_scale, rule };
    // SAFETY: the parameters are those of the kernel, and the views' memory outlives the work, as their makers
    // promised.
    unsafe { gpu.launch(file, kernel, launch, &parameters) }
}

/// The kernel for the format of the moments.
macro_rules! by_moment {
    ($name:literal, $tensors:expr) => {
        match $tensors.moments[0].1.elements().dtype() {
            $crate::dtype::DType::F32 => concat!($name, "_f32"),
            $crate::dtype::DType::BF16 => concat!($name, "_bf16"),
            _ => concat!($name, "_int8"),
        }
    };
}
pub(in crate::ops) use by_moment;

/// Threads of a block: BLOCKS_THREADS.
const BLOCKS_THREADS: u32 = 256;

/// Most blocks of threads for each multiprocessor.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 16;

/// `BlocksParameters` of blocks.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct BlocksParameters<R> {
    numel: u64,
    gradient: u64,
    master: u64,
    weight: u64,
    remainder: u64,
    moment: [u64; 2],
    absmax: [u64; 2],
    control: u64,
    weight_words: Stream,
    moment_words: Stream,
    map: [DynamicMap; 2],
    gradient_dtype: i32,
    weight_dtype: i32,
    /// Whether every tensor is aligned to its accesses.
    aligned: i32,
    gradient_scale: f32,
    padding: u32,
    rule: R,
}

/// Enqueues the kernel of blocks over state in any format.
pub(in crate::ops) fn launch_blocks<const M: usize, R: Copy>(
    gpu: &Gpu<'_>,
    file: &'static str,
    kernel: &'static str,
    tensors: &Tensors<'_, M>,
    rule: R,
) -> Result<(), CudaError> {
    let numel = tensors.gradient.numel();
    if numel == 0 {
        return Ok(());
    }
    let mut aligned = true;
    tensors.visit(&mut |_, view| aligned &= (view.data() as usize).is_multiple_of(16.min(8 * view.dtype().size())));
    let address = |view: View<'_>| view.data() as u64;
    let (master, weight, remainder) = match tensors.master.resolved() {
        Master::F32 { master, weight } => (Some(master), weight, None),
        Master::Split16 { weight, remainder } => (None, Some(weight), Some(remainder)),
        Master::Absent { weight } => (None, Some(weight), None),
    };
    let (mut moment, mut absmax) = ([0; 2], [0; 2]);
    for (k, (_, format)) in tensors.moments.iter().enumerate() {
        moment[k] = address(format.elements());
        absmax[k] = format.absmax().map_or(0, address);
    }
    let (first, keys) = match tensors.random {
        Some(random) => (random.first_index, random.keys()),
        None => (0, [Key { seed: 0, step: 0, tensor: 0 }; 2]),
    };
    let parameters = BlocksParameters {
        numel: numel as u64,
        gradient: address(tensors.gradient),
        master: master.map_or(0, address),
        weight: weight.map_or(0, address),
        remainder: remainder.map_or(0, address),
        moment,
        absmax,
        control: tensors.control.map_or(0, address),
        weight_words: Stream::new(keys[0], first),
        moment_words: Stream::new(keys[1], first),
        map: [DynamicMap::SIGNED, DynamicMap::UNSIGNED],
        gradient_dtype: tensors.gradient.dtype() as i32,
        weight_dtype: weight.map_or(0, |weight| weight.dtype() as i32),
        aligned: aligned.into(),
        gradient_scale: tensors.gradient_scale,
        padding: 0,
        rule,
    };
    let warps = (BLOCKS_THREADS / 32) as usize;
    let blocks = gpu.blocks(numel.div_ceil(BLOCK).div_ceil(warps), BLOCKS_PER_MULTIPROCESSOR);
    // SAFETY: the parameters are those of the kernel, and the views' memory outlives the work, as their makers
    // promised.
    unsafe { gpu.launch(file, kernel, Launch::linear(blocks, BLOCKS_THREADS), &parameters) }
}
