//! Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019), and its gradients.
//!
//! rstd = 1 / sqrt(mean(x^2) + epsilon), xhat = x rstd, y = xhat weight.
//! With g = dy weight: dx = rstd (g - xhat mean(g xhat)), dweight = sum over rows of dy xhat.
//!
//! Shapes: x, y, dy, dx [.., width] of one float dtype, 1 to 5 dimensions, contiguous rows; weight, dweight `[width]` of
//! x's dtype or f32, none being 1; rstd [..] f32.
//!
//! Tolerance: that of [`crate::ops::layer_norm`] with a mean of 0.

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::ops::layer_norm::rows::{check_epsilon, check_parameter, check_statistic};
use crate::ops::layer_norm::{check_backward, check_parameter_gradient};
use crate::view::{Invalid, View};

/// y = RMS norm of x.
#[derive(Clone, Copy)]
pub struct RmsNormForward<'a> {
    /// Input [.., width].
    pub x: View<'a>,
    /// Factors `[width]`; none is 1.
    pub weight: Option<View<'a>>,
    /// Added to the mean square, above 0.
    pub epsilon: f32,
    /// Output [.., width]; may be `x`.
    pub y: View<'a>,
    /// 1 / sqrt(mean square + epsilon) of each row [..], for the backward pass.
    pub rstd: Option<View<'a>>,
}

/// Gradients of [`RmsNormForward`].
#[derive(Clone, Copy)]
pub struct RmsNormBackward<'a> {
    /// Gradient of the output [.., width].
    pub dy: View<'a>,
    /// Input of the forward pass [.., width].
    pub x: View<'a>,
    /// As in the forward pass.
    pub weight: Option<View<'a>>,
    /// From the forward pass.
    pub rstd: View<'a>,
    /// Gradient of x [.., width]; may be `dy` or `x`.
    pub dx: View<'a>,
    /// Gradient of the weight `[width]`, of x's dtype or f32.
    pub dweight: Option<View<'a>>,
    /// Whether dweight is added to what is there.
    pub accumulate: bool,
}

impl Op for RmsNormForward<'_> {
    const NAME: &'static str = "rms_norm_forward";

    views!(x, y; weight, rstd);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_ndim("x", 1, 5)?;
        self.x.expect_rows("x")?;
        check_parameter("weight", &self.weight, &self.x)?;
        check_epsilon(self.epsilon)?;
        self.y.expect_like("y", &self.x, "x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.x, "x")?;
        self.y.expect_apart_from("y", &[("weight", self.weight)])?;
        check_statistic("rstd", &self.rstd, &self.x)?;
        let Some(rstd) = &self.rstd else { return Ok(()) };
        rstd.expect_writable_rows("rstd")?;
        rstd.expect_apart_from("rstd", &[("x", Some(self.x)), ("weight", self.weight), ("y", Some(self.y))])
    }

    fn workspace(&self, _workers: usize) -> usize {
        cpu::forward(self).workspace(false)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::forward(self).run::<false>(cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::forward(self, gpu)
    }
}

impl Op for RmsNormBackward<'_> {
    const NAME: &'static str = "rms_norm_backward";

    views!(dy, x, rstd, dx; weight, dweight);

    fn check(&self) -> Result<(), Invalid> {
        let others = [
            ("weight", self.weight),
            ("rstd", Some(self.rstd)),
            ("dy", Some(self.dy)),
            ("x", Some(self.x)),
            ("dx", Some(self.dx)),
        ];
        check_backward(&self.dy, &self.x, &others[..2], &self.dx)?;
        check_parameter_gradient("dweight", &self.dweight, &self.x, &others)
    }

    fn workspace(&self, _workers: usize) -> usize {
        cpu::backward(self).workspace(false)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::backward(self).run::<false>(cpu);
    }

    fn cuda_workspace(&self, properties: &Properties) -> usize {
        cuda::backward_workspace(self, properties.shared_bytes as usize)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::backward(self, gpu)
    }
}
