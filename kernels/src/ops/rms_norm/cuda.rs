use super::{RmsNormBackward, RmsNormForward};
use crate::backend::cuda::{CudaError, Gpu};
use crate::ops::layer_norm::cuda::{Backward, Forward, by_path};

pub(super) fn forward(op: &RmsNormForward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    let RmsNormForward { x, weight, epsilon, y, rstd } = *op;
    let rows = Forward { x, weight, bias: None, epsilon, y, mean: None, rstd };
    rows.run(gpu, "rms_norm", |path| by_path!("rms_norm_forward", path, x.dtype()))
}

fn rows<'a>(op: &RmsNormBackward<'a>) -> Backward<'a> {
    Backward {
        dy: op.dy,
        x: op.x,
        weight: op.weight,
        mean: None,
        rstd: op.rstd,
        dx: op.dx,
        dweight: op.dweight,
        dbias: None,
        accumulate: op.accumulate,
    }
}

pub(super) fn backward_workspace(op: &RmsNormBackward<'_>, shared_bytes: usize) -> usize {
    rows(op).workspace(shared_bytes)
}

pub(super) fn backward(op: &RmsNormBackward<'_>, gpu: &Gpu<'_>) -> Result<(), CudaError> {
    rows(op).run(gpu, "rms_norm", |path| by_path!("rms_norm_backward", path, op.x.dtype()))
}
