//! GELU, the Gaussian error linear unit (Hendrycks & Gimpel 2016), and its derivative.
//!
//! | kind | y | dx / dy |
//! |---|---|---|
//! | exact | x Phi(x) | Phi(x) + x phi(x) |
//! | tanh | x (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3) | (1 + tanh u) / 2 + x (1 - tanh^2 u) u' / 2 |
//!
//! Phi and phi are the distribution function and the density of the standard normal distribution.
//!
//! Shapes: all tensors have one shape of 0 to 5 dimensions and one dtype of f32, bf16, f16; rows are contiguous.
//!
//! Tolerance: y within 2 epsilon(dtype) |y| + 4 epsilon(f32) min(|x|, 1), dx within
//! 2 epsilon(dtype) |dx| + 16 epsilon(f32) |dy|, plus half the smallest denormal of the dtype. Computed in f32. As in
//! the formulas, x = -infinity gives NaN.

pub(crate) mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// Which of the two formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// With the normal distribution function.
    Exact,
    /// With the tanh approximation, as GPT-2 was trained.
    Tanh,
}

/// y = gelu(x).
#[derive(Clone, Copy)]
pub struct GeluForward<'a> {
    /// Input.
    pub x: View<'a>,
    /// Formula.
    pub kind: GeluKind,
    /// Output; may be `x`.
    pub y: View<'a>,
}

/// dx = gelu'(x) dy.
#[derive(Clone, Copy)]
pub struct GeluBackward<'a> {
    /// Input of the forward pass.
    pub x: View<'a>,
    /// Gradient of the output.
    pub dy: View<'a>,
    /// Formula.
    pub kind: GeluKind,
    /// Gradient of the input; may be `dy` or `x`.
    pub dx: View<'a>,
}

impl Op for GeluForward<'_> {
    const NAME: &'static str = "gelu_forward";

    views!(x, y);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        self.y.expect_like("y", &self.x, "x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.x, "x")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::forward(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::forward(self, gpu)
    }
}

impl Op for GeluBackward<'_> {
    const NAME: &'static str = "gelu_backward";

    views!(x, dy, dx);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        self.dy.expect_like("dy", &self.x, "x")?;
        self.dy.expect_rows("dy")?;
        self.dx.expect_like("dx", &self.x, "x")?;
        self.dx.expect_writable_rows("dx")?;
        self.dx.expect_same_or_apart("dx", &self.x, "x")?;
        self.dx.expect_same_or_apart("dx", &self.dy, "dy")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::backward(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::backward(self, gpu)
    }
}
