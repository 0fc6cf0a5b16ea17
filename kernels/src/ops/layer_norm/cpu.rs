use super::rows::{Backward, Forward, parameter, parameter_floats};
use super::{LayerNormBackward, LayerNormForward};
use crate::backend::cpu::Cpu;

pub(super) fn forward_workspace(op: &LayerNormForward<'_>) -> usize {
    let width = op.x.width();
    (parameter_floats(&op.weight, width) + parameter_floats(&op.bias, width)) * size_of::<f32>()
}

pub(super) fn forward(op: &LayerNormForward<'_>, cpu: &Cpu<'_>) {
    let width = op.x.width();
    let mut space = cpu.workspace(forward_workspace(op)).cast::<f32>();
    // SAFETY: the workspace holds both parameters.
    let (weight, bias) = unsafe {
        let weight = parameter(cpu, &op.weight, width, 1.0, &mut space);
        (weight, parameter(cpu, &op.bias, width, 0.0, &mut space))
    };
    Forward { x: op.x, weight, bias, epsilon: op.epsilon, y: op.y, mean: op.mean, rstd: op.rstd }.run::<true>(cpu);
}

pub(super) fn rows<'a>(op: &LayerNormBackward<'a>) -> Backward<'a> {
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
