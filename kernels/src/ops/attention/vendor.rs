//! The forward pass by cuDNN.

use super::{AttentionForward, own};
use crate::backend::cuda::cudnn::{ALIGNMENT, Operands, Sdpa, Strides, WORKSPACE_BYTES};
use crate::backend::cuda::{CudaError, Device, Gpu};
use crate::dtype::DType;
use crate::view::View;

/// What cuDNN would run, once it has a plan for it; the error says what is missing.
pub(super) fn describe(op: &AttentionForward<'_>, device: &Device) -> Result<Sdpa, CudaError> {
    const NAME: &str = "attention_forward";
    if !device.properties().native {
        return Err(Gpu::unavailable(NAME, "an emulated device has no cuDNN"));
    }
    let sdpa = arguments(op).map_err(|reason| Gpu::unavailable(NAME, reason))?;
    device.cudnn().takes(device.driver(), &sdpa)?;
    Ok(sdpa)
}

/// The operation as cuDNN takes it, or why it cannot.
fn arguments(op: &AttentionForward<'_>) -> Result<Sdpa, String> {
    let &[batch, t, query_heads, width] = op.q.shape() else { unreachable!("the operation's check passed") };
    let (s, key_heads) = (op.k.shape()[1], op.k.shape()[2]);
    if op.q.dtype() == DType::F32 {
        return Err("cuDNN has no attention of f32".to_owned());
    }
    if s == 0 {
        return Err("cuDNN needs at least one key".to_owned());
    }
    let scores = [batch, query_heads, t, s].into_iter().try_fold(1i64, |n, size| n.checked_mul(size as i64));
    if t.max(s) > own::MOST_TOKENS || scores.is_none() {
        return Err(format!("there are {batch}x{query_heads}x{t}x{s} scores, which cuDNN cannot count"));
    }
    let statistics = match &op.log_sum_exp {
        None => None,
        Some(view) => {
            is_aligned("log_sum_exp", view)?;
            let [batch, head] = [stride(view, 0), stride(view, 1)];
            Some(Strides { batch, head, token: 1 })
        }
    };
    Ok(Sdpa {
        dtype: op.q.dtype(),
        batch: batch as i64,
        query_heads: query_heads as i64,
        key_heads: key_heads as i64,
        queries: t as i32,
        keys: s as i32,
        width: width as i64,
        q: strides("q", &op.q)?,
        k: strides("k", &op.k)?,
        v: strides("v", &op.v)?,
        out: strides("out", &op.out)?,
        statistics,
        causal: op.causal,
    })
}

/// Elements from one index of a dimension to the next; of one index, as if what it holds were packed.
fn stride(view: &View<'_>, dimension: usize) -> i64 {
    let (shape, stride) = (view.shape(), view.stride());
    if shape[dimension] > 1 {
        stride[dimension] as i64
    } else {
        shape[dimension + 1..].iter().product::<usize>() as i64
    }
}

fn is_aligned(name: &str, view: &View<'_>) -> Result<(), String> {
    if (view.data() as usize).is_multiple_of(ALIGNMENT) {
        return Ok(());
    }
    Err(format!("cuDNN needs {name} to be aligned to {ALIGNMENT} bytes"))
}

/// Strides of `[b, t, h, d]`, which leave no row on another and none misaligned.
fn strides(name: &str, view: &View<'_>) -> Result<Strides, String> {
    is_aligned(name, view)?;
    let [batch, token, head] = [0, 1, 2].map(|dimension| stride(view, dimension));
    let (width, size) = (view.shape()[3] as i64, view.dtype().size() as i64);
    for stride in [batch, token, head] {
        if stride < width || stride * size % ALIGNMENT as i64 != 0 {
            return Err(format!("cuDNN needs rows of {name} that are apart and aligned to {ALIGNMENT} bytes"));
        }
    }
    Ok(Strides { batch, head, token })
}

/// Enqueues the forward pass.
pub(super) fn forward(op: &AttentionForward<'_>, sdpa: &Sdpa, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let operands = Operands {
        q: op.q.data() as u64,
        k: op.k.data() as u64,
        v: op.v.data() as u64,
        out: op.out.data() as u64,
        statistics: op.log_sum_exp.as_ref().map_or(0, |view| view.data() as u64),
        scale: own::scale(op.scale, op.q.shape()[3]),
        workspace: gpu.workspace(WORKSPACE_BYTES),
    };
    let device = gpu.device();
    // SAFETY: the operation is made of the views, whose memory outlives the work, as their makers promised; so does the
    // workspace.
    unsafe { device.cudnn().enqueue(device.driver(), sdpa, &operands, gpu.stream()) }
}
