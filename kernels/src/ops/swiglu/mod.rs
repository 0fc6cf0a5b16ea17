//! SwiGLU, the gated linear unit with SiLU (Shazeer 2020), and its gradient.
//!
//! y = silu(gate) up, silu(z) = z sigma(z) = z / (1 + e^-z).
//! dgate = dy up silu'(gate), silu'(z) = sigma(z) (1 + z (1 - sigma(z))); dup = dy silu(gate).
//!
//! Shapes: all tensors have one shape of 0 to 5 dimensions and one dtype of f32, bf16, f16; rows are contiguous. gate
//! and up, and dgate and dup, may be the halves of one packed tensor: rows of the same stride.
//!
//! Tolerance: y and dup within 2 epsilon(dtype) of their values, dgate within 2 epsilon(dtype) |dgate| + 16
//! epsilon(f32) |dy up|, plus half the smallest denormal of the dtype and 1e-36 |up|, |dy up|, |dy|. Computed in f32.
//! As in the formulas, gate = -infinity gives NaN.

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// y = silu(gate) up.
#[derive(Clone, Copy)]
pub struct SwigluForward<'a> {
    /// The input of the gate.
    pub gate: View<'a>,
    /// What is gated.
    pub up: View<'a>,
    /// Output; may be `gate` or `up`.
    pub y: View<'a>,
}

/// dgate = dy up silu'(gate), dup = dy silu(gate).
#[derive(Clone, Copy)]
pub struct SwigluBackward<'a> {
    /// As in the forward pass.
    pub gate: View<'a>,
    /// As in the forward pass.
    pub up: View<'a>,
    /// Gradient of the output.
    pub dy: View<'a>,
    /// Gradient of `gate`; may be `gate`, `up` or `dy`.
    pub dgate: View<'a>,
    /// Gradient of `up`; may be `gate`, `up` or `dy`.
    pub dup: View<'a>,
}

fn check_inputs(gate: &View<'_>, others: &[(&'static str, View<'_>)]) -> Result<(), Invalid> {
    gate.expect_dtype("gate", &DType::FLOATS)?;
    gate.expect_rows("gate")?;
    others.iter().try_for_each(|(name, view)| {
        view.expect_like(name, gate, "gate")?;
        view.expect_rows(name)
    })
}

fn check_output(name: &'static str, view: &View<'_>, inputs: &[(&'static str, View<'_>)]) -> Result<(), Invalid> {
    view.expect_like(name, &inputs[0].1, inputs[0].0)?;
    view.expect_writable_rows(name)?;
    inputs.iter().try_for_each(|(input, other)| view.expect_same_or_apart(name, other, input))
}

impl Op for SwigluForward<'_> {
    const NAME: &'static str = "swiglu_forward";

    views!(gate, up, y);

    fn check(&self) -> Result<(), Invalid> {
        let inputs = [("gate", self.gate), ("up", self.up)];
        check_inputs(&self.gate, &inputs[1..])?;
        check_output("y", &self.y, &inputs)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::forward(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::forward(self, gpu)
    }
}

impl Op for SwigluBackward<'_> {
    const NAME: &'static str = "swiglu_backward";

    views!(gate, up, dy, dgate, dup);

    fn check(&self) -> Result<(), Invalid> {
        let inputs = [("gate", self.gate), ("up", self.up), ("dy", self.dy)];
        check_inputs(&self.gate, &inputs[1..])?;
        check_output("dgate", &self.dgate, &inputs)?;
        check_output("dup", &self.dup, &inputs)?;
        self.dup.expect_apart("dup", &self.dgate, "dgate")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::backward(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::backward(self, gpu)
    }
}
