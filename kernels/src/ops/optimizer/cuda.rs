//! The launch that the optimizers share.

use super::Tensors;
use crate::backend::cuda::elementwise::Elementwise;
use crate::backend::cuda::{CudaError, Gpu};
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
    // SAFETY: the parameters are those of the kernel, and the views' memory outlives the work, as their makers promised.
    unsafe { gpu.launch(file, kernel, launch, &parameters) }
}
