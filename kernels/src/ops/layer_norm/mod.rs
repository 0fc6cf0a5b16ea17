//! Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016), and its gradients.
//!
//! mean = mean(x), rstd = 1 / sqrt(mean((x - mean)^2) + epsilon), xhat = (x - mean) rstd,
//! y = xhat weight + bias.
//! With g = dy weight: dx = rstd (g - mean(g) - xhat mean(g xhat)), dweight = sum over rows of dy xhat, dbias = sum
//! over rows of dy.
//!
//! Shapes: x, y, dy, dx [.., width] of one float dtype, 1 to 5 dimensions, contiguous rows; weight, bias, dweight, dbias
//! `[width]` of x's dtype or f32, none being 1 and 0; mean, rstd [..] f32.
//!
//! Tolerance, with e = epsilon(f32), w the width and m = |mean| rstd of the row: mean within (8 + w / 32) e of
//! mean(|x|) and rstd of itself times 1 + m; y within 2 epsilon(dtype) |y| + (16 + w / 32) e (1 + m) (1 + |xhat|)
//! |weight|; dx within 2 epsilon(dtype) |dx| + (32 + w / 32) e rstd (1 + max|xhat|) max|g|; dweight and dbias within
//! 2 epsilon(dtype) of themselves plus (96 + rows / 64) e times the sum of the magnitudes of their summands. Each plus
//! half the smallest denormal of the dtype. Computed in f32, the statistics in two passes, or in one where |mean| rstd is
//! at most 1; the squares of x must fit f32.

pub(crate) mod backward;
pub(crate) mod forward;
pub mod reference;
pub(crate) mod rows;

mod cpu;
pub(crate) mod cuda;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};
use rows::{check_epsilon, check_parameter, check_statistic};

/// y = layer norm of x.
#[derive(Clone, Copy)]
pub struct LayerNormForward<'a> {
    /// Input [.., width].
    pub x: View<'a>,
    /// Factors `[width]`; none is 1.
    pub weight: Option<View<'a>>,
    /// Summands `[width]`; none is 0.
    pub bias: Option<View<'a>>,
    /// Added to the variance, above 0.
    pub epsilon: f32,
    /// Output [.., width]; may be `x`.
    pub y: View<'a>,
    /// Mean of each row [..], for the backward pass.
    pub mean: Option<View<'a>>,
    /// 1 / sqrt(variance + epsilon) of each row [..], for the backward pass.
    pub rstd: Option<View<'a>>,
}

/// Gradients of [`LayerNormForward`].
#[derive(Clone, Copy)]
pub struct LayerNormBackward<'a> {
    /// Gradient of the output [.., width].
    pub dy: View<'a>,
    /// Input of the forward pass [.., width].
    pub x: View<'a>,
    /// As in the forward pass.
    pub weight: Option<View<'a>>,
    /// From the forward pass.
    pub mean: View<'a>,
    /// From the forward pass.
    pub rstd: View<'a>,
    /// Gradient of x [.., width]; may be `dy` or `x`.
    pub dx: View<'a>,
    /// Gradient of the weight `[width]`, of x's dtype or f32.
    pub dweight: Option<View<'a>>,
    /// Gradient of the bias `[width]`, of x's dtype or f32.
    pub dbias: Option<View<'a>>,
    /// Whether dweight and dbias are added to what is there.
    pub accumulate: bool,
}

impl Op for LayerNormForward<'_> {
    const NAME: &'static str = "layer_norm_forward";

    views!(x, y; weight, bias, mean, rstd);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_ndim("x", 1, 5)?;
        self.x.expect_rows("x")?;
        check_parameter("weight", &self.weight, &self.x)?;
        check_parameter("bias", &self.bias, &self.x)?;
        check_epsilon(self.epsilon)?;
        self.y.expect_like("y", &self.x, "x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.x, "x")?;
        self.y.expect_apart_from("y", &[("weight", self.weight), ("bias", self.bias)])?;
        let mut others =
            [("x", Some(self.x)), ("weight", self.weight), ("bias", self.bias), ("y", Some(self.y)), ("mean", None)];
        for (name, statistic) in [("mean", self.mean), ("rstd", self.rstd)] {
            check_statistic(name, &statistic, &self.x)?;
            if let Some(view) = statistic {
                view.expect_writable_rows(name)?;
                view.expect_apart_from(name, &others)?;
            }
            others[4] = ("mean", self.mean);
        }
        Ok(())
    }

    fn workspace(&self, _workers: usize) -> usize {
        cpu::forward(self).workspace(true)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::forward(self).run::<true>(cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::forward(self, gpu)
    }
}

impl Op for LayerNormBackward<'_> {
    const NAME: &'static str = "layer_norm_backward";

    views!(dy, x, mean, rstd, dx; weight, dweight, dbias);

    fn check(&self) -> Result<(), Invalid> {
        let inputs = [("weight", self.weight), ("mean", Some(self.mean)), ("rstd", Some(self.rstd))];
        check_backward(&self.dy, &self.x, &inputs, &self.dx)?;
        let rows = [("dy", Some(self.dy)), ("x", Some(self.x)), ("dx", Some(self.dx))];
        check_parameter_gradient("dweight", &self.dweight, &self.x, &[&inputs[..], &rows].concat())?;
        let others = [&inputs[..], &rows, &[("dweight", self.dweight)]].concat();
        check_parameter_gradient("dbias", &self.dbias, &self.x, &others)
    }

    fn workspace(&self, _workers: usize) -> usize {
        cpu::backward(self).workspace(true)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::backward(self).run::<true>(cpu);
    }

    fn cuda_workspace(&self, properties: &Properties) -> usize {
        cuda::backward_workspace(self, properties.shared_bytes as usize)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::backward(self, gpu)
    }
}

/// Checks dy, x and dx of either norm's backward pass, and its weight and statistics, in that order in `inputs`.
pub(crate) fn check_backward<'a>(
    dy: &View<'a>,
    x: &View<'a>,
    inputs: &[(&'static str, Option<View<'a>>)],
    dx: &View<'a>,
) -> Result<(), Invalid> {
    dy.expect_dtype("dy", &DType::FLOATS)?;
    dy.expect_ndim("dy", 1, 5)?;
    dy.expect_rows("dy")?;
    x.expect_like("x", dy, "dy")?;
    x.expect_rows("x")?;
    check_parameter("weight", &inputs[0].1, x)?;
    for (name, statistic) in &inputs[1..] {
        check_statistic(name, statistic, x)?;
    }
    dx.expect_like("dx", dy, "dy")?;
    dx.expect_writable_rows("dx")?;
    dx.expect_same_or_apart("dx", dy, "dy")?;
    dx.expect_same_or_apart("dx", x, "x")?;
    dx.expect_apart_from("dx", inputs)
}

/// Requires a writable gradient of a parameter, where there is one, apart from the other arguments.
pub(crate) fn check_parameter_gradient(
    argument: &'static str,
    gradient: &Option<View<'_>>,
    x: &View<'_>,
    others: &[(&str, Option<View<'_>>)],
) -> Result<(), Invalid> {
    check_parameter(argument, gradient, x)?;
    let Some(gradient) = gradient else { return Ok(()) };
    gradient.expect_writable_rows(argument)?;
    gradient.expect_apart_from(argument, others)
}
