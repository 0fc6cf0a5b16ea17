use super::backward::Backward;
use super::forward::Forward;
use super::{LayerNormBackward, LayerNormForward};

pub(super) fn forward<'a>(op: &LayerNormForward<'a>) -> Forward<'a> {
    Forward { x: op.x, weight: op.weight, bias: op.bias, epsilon: op.epsilon, y: op.y, mean: op.mean, rstd: op.rstd }
}

pub(super) fn backward<'a>(op: &LayerNormBackward<'a>) -> Backward<'a> {
    Backward {
        dy: op.dy,
        x: op.x,
        weight: op.weight,
        mean: Some(op.mean),
        rstd: op.rstd,
        dx: op.dx,
        dweight: op.dweight,
        dbias: op.dbias,
        accumulate: op.accumulate,
    }
}
