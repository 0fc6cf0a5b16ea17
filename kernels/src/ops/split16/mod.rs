//! An f32 as a bf16 and a 16-bit remainder, and back: master weights in the room of the weights and two bytes more.
//!
//! | argument | shape | dtype |
//! |---|---|---|
//! | x, y | any, contiguous | f32 |
//! | weight | that of x | bf16 |
//! | remainder | that of x | i16 |
//!
//! **Split:** weight = x rounded to bf16, nearest with ties away from zero; remainder = the low 16 bits of x, signed.
//! **Join:** the bits of y are (weight << 16) + remainder, modulo 2^32.
//!
//! Joined, what was split is x, bit by bit, infinities, denormals and both zeros included: with ties away from zero the
//! bits of x lie within -2^15 .. 2^15 - 1 of those of weight. (The largest finite values have the weight infinity and a
//! negative remainder.) A NaN has a weight that is NaN, and stays NaN; which is not specified.
//!
//! Tolerance: none; the same bits everywhere, those of the optimizers. Zero elements do nothing.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// weight and remainder of x.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// f32.
    pub x: View<'a>,
    /// The nearest bf16.
    pub weight: View<'a>,
    /// What it lacks.
    pub remainder: View<'a>,
}

/// The f32 of a weight and a remainder.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// bf16.
    pub weight: View<'a>,
    /// i16.
    pub remainder: View<'a>,
    /// f32.
    pub y: View<'a>,
}

/// Requires the dtypes and the shape of `f32s`, contiguous, and what is written apart from all else.
fn check(name: &'static str, f32s: &View<'_>, weight: &View<'_>, remainder: &View<'_>) -> Result<(), Invalid> {
    f32s.expect_dtype(name, &[DType::F32])?;
    f32s.expect_contiguous(name)?;
    weight.expect_dtype("weight", &[DType::BF16])?;
    remainder.expect_dtype("remainder", &[DType::I16])?;
    for (argument, view) in [("weight", weight), ("remainder", remainder)] {
        view.expect_shape(argument, f32s.shape(), format_args!("the shape of {name}"))?;
        view.expect_contiguous(argument)?;
        view.expect_apart(argument, f32s, name)?;
    }
    remainder.expect_apart("remainder", weight, "weight")
}

impl Op for Split<'_> {
    const NAME: &'static str = "split16";

    views!(x, weight, remainder);

    fn check(&self) -> Result<(), Invalid> {
        check("x", &self.x, &self.weight, &self.remainder)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::split(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::split(self, gpu)
    }
}

impl Op for Join<'_> {
    const NAME: &'static str = "join16";

    views!(weight, remainder, y);

    fn check(&self) -> Result<(), Invalid> {
        check("y", &self.y, &self.weight, &self.remainder)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::join(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::join(self, gpu)
    }
}
