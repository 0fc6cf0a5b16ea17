//! f32 as 8-bit codes with a scale for each block of 256 elements, and back: [`crate::dynamic_map`] says which.
//!
//! | argument | shape | dtype |
//! |---|---|---|
//! | x, y | any, contiguous | f32 |
//! | codes | that of x, contiguous | u8 |
//! | absmax | \[ceil(elements / 256)\], contiguous | f32 |
//!
//! Blocks are counted from the first element, in row-major order. To decode elements of a larger tensor, begin at a
//! multiple of 256 of it.
//!
//! Tolerance: none; the same bits everywhere, those of the optimizers. Zero elements do nothing.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::dynamic_map::{BLOCK, Sign};
use crate::view::{Invalid, View};

/// codes and absmax of x.
#[derive(Clone, Copy, Debug)]
pub struct Quantize<'a> {
    /// f32.
    pub x: View<'a>,
    /// The map.
    pub sign: Sign,
    /// A byte for each element.
    pub codes: View<'a>,
    /// The largest magnitude of each block.
    pub absmax: View<'a>,
}

/// The values of codes.
#[derive(Clone, Copy, Debug)]
pub struct Dequantize<'a> {
    /// A byte for each element.
    pub codes: View<'a>,
    /// The largest magnitude of each block.
    pub absmax: View<'a>,
    /// The map.
    pub sign: Sign,
    /// f32.
    pub y: View<'a>,
}

/// Requires the dtypes and the shape of `f32s`, contiguous, and what is written apart from all else.
fn check(name: &'static str, f32s: &View<'_>, codes: &View<'_>, absmax: &View<'_>) -> Result<(), Invalid> {
    f32s.expect_dtype(name, &[DType::F32])?;
    f32s.expect_contiguous(name)?;
    codes.expect_dtype("codes", &[DType::U8])?;
    codes.expect_shape("codes", f32s.shape(), format_args!("the shape of {name}"))?;
    codes.expect_contiguous("codes")?;
    codes.expect_apart("codes", f32s, name)?;
    absmax.expect_dtype("absmax", &[DType::F32])?;
    let blocks = f32s.numel().div_ceil(BLOCK);
    absmax.expect_shape("absmax", &[blocks], format_args!("one for each {BLOCK} elements of {name}"))?;
    absmax.expect_contiguous("absmax")?;
    absmax.expect_apart("absmax", f32s, name)?;
    absmax.expect_apart("absmax", codes, "codes")
}

impl Op for Quantize<'_> {
    const NAME: &'static str = "quantize";

    views!(x, codes, absmax);

    fn check(&self) -> Result<(), Invalid> {
        check("x", &self.x, &self.codes, &self.absmax)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::quantize(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::quantize(self, gpu)
    }
}

impl Op for Dequantize<'_> {
    const NAME: &'static str = "dequantize";

    views!(codes, absmax, y);

    fn check(&self) -> Result<(), Invalid> {
        check("y", &self.y, &self.codes, &self.absmax)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::dequantize(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::dequantize(self, gpu)
    }
}
