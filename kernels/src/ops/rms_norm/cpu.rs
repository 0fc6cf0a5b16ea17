use super::{RmsNormBackward, RmsNormForward};
use crate::ops::layer_norm::backward::Backward;
use crate::ops::layer_norm::forward::Forward;

pub(super) fn forward<'a>(op: &RmsNormForward<'a>) -> Forward<'a> {
    Forward { x: op.x, weight: op.weight, bias: None, epsilon: op.epsilon, y: op.y, mean: None, rstd: op.rstd }
}

pub(super) fn backward<'a>(op: &RmsNormBackward<'a>) -> Backward<'a> {
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
