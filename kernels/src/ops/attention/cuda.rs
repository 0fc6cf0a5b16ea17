//! Which kernels an attention runs on: cuDNN's or this library's.

use super::{AttentionBackward, AttentionForward, own, vendor};
use crate::backend::cuda::cudnn::{self, Sdpa};
use crate::backend::cuda::{CudaError, Device, Gpu, Implementation, Properties};

/// Bytes of workspace, whichever kernels run.
pub(super) fn forward_workspace(op: &AttentionForward<'_>, properties: &Properties) -> usize {
    let may_be_vendor = op.implementation != Implementation::Own && properties.native && cudnn::available().is_ok();
    if may_be_vendor && op.q.numel() != 0 { cudnn::WORKSPACE_BYTES } else { 0 }
}

/// How cuDNN would run the forward pass, or none if this library's kernels do.
fn choose(op: &AttentionForward<'_>, device: &Device) -> Result<Option<Sdpa>, CudaError> {
    if op.implementation == Implementation::Own {
        return Ok(None);
    }
    match vendor::describe(op, device) {
        Ok(sdpa) => Ok(Some(sdpa)),
        Err(error) if op.implementation == Implementation::Vendor => Err(error),
        Err(_) => Ok(None),
    }
}

/// Name of what runs, for traces.
pub(super) fn forward_name(op: &AttentionForward<'_>, device: &Device) -> Result<&'static str, CudaError> {
    if op.q.numel() == 0 {
        return Ok("nothing");
    }
    let sdpa = choose(op, device)?;
    Ok(if sdpa.is_some() { "cuDNN" } else { own::name(op.q.dtype()) })
}

/// Enqueues the forward pass.
pub(super) fn forward(op: &AttentionForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    if op.q.numel() == 0 {
        return Ok(());
    }
    match choose(op, gpu.device())? {
        Some(sdpa) => vendor::forward(op, &sdpa, gpu),
        None => own::forward(op, gpu),
    }
}

/// Name of what runs, for traces.
pub(super) fn backward_name(op: &AttentionBackward<'_>) -> Result<&'static str, CudaError> {
    if op.implementation == Implementation::Vendor {
        const REASON: &str = "cuDNN's backward pass is not used: it sums dq in no fixed order";
        return Err(Gpu::unavailable("attention_backward", REASON));
    }
    Ok(own::name(op.q.dtype()))
}

/// Enqueues the backward pass.
pub(super) fn backward(op: &AttentionBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    backward_name(op)?;
    own::backward(op, gpu)
}
