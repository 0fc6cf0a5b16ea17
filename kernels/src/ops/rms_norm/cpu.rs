use super::{RmsNormBackward, RmsNormForward};
use crate::backend::cpu::Cpu;
use crate::ops::layer_norm::rows::{Backward, Forward, parameter, parameter_floats};

pub(super) fn forward_workspace(op: &RmsNormForward<'_>) -> usize {
    parameter_floats(&op.weight, op.x.width()) * size_of::<f32>()
}

pub(super) fn forward(op: &RmsNormForward<'_>, cpu: &Cpu<'_>) {
    let mut space = cpu.workspace(forward_workspace(op)).cast::<f32>();
    // SAFETY: the workspace holds the parameter.
    let weight = unsafe { parameter(cpu, &op.weight, op.x.width(), 1.0, &mut space) };
    Forward { x: op.x, weight, bias: std::ptr::null(), epsilon: op.epsilon, y: op.y, mean: None, rstd: op.rstd }
        .run::<false>(cpu);
}

pub(super) fn rows<'a>(op: &RmsNormBackward<'a>) -> Backward<'a> {
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
