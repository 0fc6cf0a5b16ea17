//! Softmax cross-entropy of a linear layer's output, and its gradients, without the logits in memory.
//!
//! logits = x weight^T; loss of row i with target t = log sum over j of e^(logits_ij) - logits_it;
//! with d_ij = softmax(logits_i)_j - [j = t] and g = gradient_scale loss_scale: dx = g d weight,
//! dweight = g d^T x, added to the old dweight if `accumulate_dweight`.
//! A row whose target is negative, or equals an `ignore_index` other than 0, is ignored: loss 0, d = 0.
//!
//! Shapes: x, dx [.., c], weight [v, c] of one float dtype; dweight [v, c] of that dtype or f32; targets [..] i32;
//! losses [..] f32; loss_scale one f32. Rows are contiguous. Without dx and dweight only the losses are computed.
//!
//! The logits exist for a chunk of rows at a time, in f32, in the workspace: at most 64 MiB of them, or 64 rows if those
//! are more, in chunks of equal size; on a CUDA device 256 MiB of them, or 128 rows. The number of rows depends on the
//! shapes only, and so do the bits, whatever the number of threads. What a device does with a target of v or more is as in
//! [`super::cross_entropy`].
//!
//! Tolerance: the logits are within that of [`super::gemm`], with k = c, and the losses and d follow as in
//! [`super::cross_entropy`]. d is rounded to the dtype of x; the products with it are those of [`super::gemm`], with g
//! applied in f32. A 16-bit dweight is rounded once per chunk: with many chunks an f32 one is better. As 0 times
//! infinity is NaN, an x that is not finite reaches dweight from an ignored row too, and a weight dx.
//!
//! Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024; Hsu et al., "Liger Kernel",
//! 2024, for the chunks.

mod cpu;
mod cuda;
pub mod reference;

use super::cross_entropy::{check_loss_scale, check_targets};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, MAX_DIMS, View};

/// losses = cross-entropy of x weight^T and targets; dx, dweight = its gradients.
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropy<'a> {
    /// Input of the layer [.., c].
    pub x: View<'a>,
    /// Weight of the layer [v, c], dtype of x.
    pub weight: View<'a>,
    /// Class ids [..], below v.
    pub targets: View<'a>,
    /// Target of ignored rows unless 0; negative targets are always ignored.
    pub ignore_index: i32,
    /// Factor of the gradients.
    pub gradient_scale: f32,
    /// Another factor of the gradients, one f32; none is 1.
    pub loss_scale: Option<View<'a>>,
    /// Losses [..].
    pub losses: View<'a>,
    /// Gradient of x, in its dtype; may be `x`. Given if and only if dweight is.
    pub dx: Option<View<'a>>,
    /// Gradient of the weight [v, c]; dtype of x, or f32.
    pub dweight: Option<View<'a>>,
    /// Whether to add to dweight; else it is not read.
    pub accumulate_dweight: bool,
}

impl LinearCrossEntropy<'_> {
    /// Requires that a written argument shares no memory with the ones read, but for x.
    fn expect_apart_from_inputs(&self, argument: &'static str, output: &View<'_>) -> Result<(), Invalid> {
        output.expect_apart(argument, &self.weight, "weight")?;
        output.expect_apart(argument, &self.targets, "targets")?;
        self.loss_scale.map_or(Ok(()), |scale| output.expect_apart(argument, &scale, "loss_scale"))
    }
}

impl Op for LinearCrossEntropy<'_> {
    const NAME: &'static str = "linear_cross_entropy";

    views!(x, weight, targets, losses; loss_scale, dx, dweight);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_ndim("x", 1, MAX_DIMS)?;
        self.x.expect_rows("x")?;
        let (lead, c) = (&self.x.shape()[..self.x.ndim() - 1], self.x.width());
        self.weight.expect_dtype("weight", &[self.x.dtype()])?;
        self.weight.expect_ndim("weight", 2, 2)?;
        let v = self.weight.row_count();
        self.weight.expect_shape("weight", &[v, c], "[v, c] with the c of x")?;
        self.weight.expect_rows("weight")?;
        if cpu::logits_bytes(self) > isize::MAX as usize {
            return Err(Invalid::new("weight", format!("{v} rows are more than the logits of x have memory for")));
        }
        self.targets.expect_dtype("targets", &[DType::I32])?;
        self.targets.expect_shape("targets", lead, "the leading dimensions of x")?;
        if !self.gradient_scale.is_finite() {
            return Err(Invalid::new("gradient_scale", format!("{} must be finite", self.gradient_scale)));
        }
        check_loss_scale(&self.loss_scale)?;
        self.losses.expect_dtype("losses", &[DType::F32])?;
        self.losses.expect_shape("losses", lead, "the leading dimensions of x")?;
        self.losses.expect_writable_rows("losses")?;
        self.losses.expect_apart("losses", &self.x, "x")?;
        self.expect_apart_from_inputs("losses", &self.losses)?;
        let (dx, dweight) = match (&self.dx, &self.dweight) {
            (Some(dx), Some(dweight)) => (dx, dweight),
            (None, None) => return Ok(()),
            (Some(_), None) => return Err(Invalid::new("dweight", "must be given with dx")),
            (None, Some(_)) => return Err(Invalid::new("dx", "must be given with dweight")),
        };
        dx.expect_like("dx", &self.x, "x")?;
        dx.expect_writable_rows("dx")?;
        dweight.expect_dtype("dweight", &[self.x.dtype(), DType::F32])?;
        dweight.expect_shape("dweight", self.weight.shape(), "the shape of weight")?;
        dweight.expect_writable_rows("dweight")?;
        dx.expect_same_or_apart("dx", &self.x, "x")?;
        self.expect_apart_from_inputs("dx", dx)?;
        dx.expect_apart("dx", &self.losses, "losses")?;
        dweight.expect_apart("dweight", &self.x, "x")?;
        self.expect_apart_from_inputs("dweight", dweight)?;
        dweight.expect_apart("dweight", &self.losses, "losses")?;
        dweight.expect_apart("dweight", dx, "dx")
    }

    fn check_elements(&self) -> Result<(), Invalid> {
        check_targets(&self.targets, self.ignore_index, self.weight.row_count())
    }

    fn workspace(&self, workers: usize) -> usize {
        cpu::workspace(self, workers)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda_workspace(&self, properties: &Properties) -> usize {
        cuda::workspace(self, properties)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
