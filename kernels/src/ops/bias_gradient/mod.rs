//! Gradient of a bias: dbias_j = sum over rows of dy_(row, j), added to the old dbias if `accumulate`.
//!
//! Shapes: dy [.., n] of a float dtype, 1 to 5 dimensions, contiguous rows; dbias `[n]` of that dtype or f32.
//!
//! Rows are summed in f32, first within blocks of rows, then block after block. The order depends on the number of
//! rows alone: the same bits for any number of threads, at every SIMD level and on a device.
//!
//! Tolerance: |error| <= (rows / 256 + 80) 2^-24 (sum |dy| + |old dbias|), plus one rounding to the dtype of dbias.
//! NaN and infinity propagate.

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// dbias = column sums of dy.
#[derive(Clone, Copy, Debug)]
pub struct BiasGradient<'a> {
    /// Gradient of the output [.., n].
    pub dy: View<'a>,
    /// Gradient of the bias `[n]`; dtype of dy, or f32.
    pub dbias: View<'a>,
    /// Whether to add to dbias; else it is not read.
    pub accumulate: bool,
}

impl Op for BiasGradient<'_> {
    const NAME: &'static str = "bias_gradient";

    views!(dy, dbias);

    fn check(&self) -> Result<(), Invalid> {
        self.dy.expect_dtype("dy", &DType::FLOATS)?;
        self.dy.expect_ndim("dy", 1, 5)?;
        self.dy.expect_rows("dy")?;
        self.dbias.expect_dtype("dbias", &[self.dy.dtype(), DType::F32])?;
        self.dbias.expect_shape("dbias", &[self.dy.width()], "the last dimension of dy")?;
        self.dbias.expect_writable_rows("dbias")?;
        self.dbias.expect_apart("dbias", &self.dy, "dy")
    }

    fn workspace(&self, _workers: usize) -> usize {
        cpu::workspace(self)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda_workspace(&self, _properties: &Properties) -> usize {
        cpu::workspace(self)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
