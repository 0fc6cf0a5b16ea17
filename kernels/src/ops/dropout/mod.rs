//! Dropout (Srivastava et al. 2014): y = x / (1 - probability) where an element is kept, 0 where it is dropped. The
//! backward pass is the same call on dy with the same key.
//!
//! x and y have one shape of 0 to 5 dimensions, one dtype of f32, bf16, f16 and contiguous rows; y may be x. The random
//! word w of an element comes from [`crate::philox`] with its row-major index plus `first_index`; it is dropped when
//! w < [`threshold`] = round(2^32 probability). A kept y is x [`factor`], rounded to f32 and then to the dtype, with
//! factor = 1 / (1 - probability) computed in f64 and rounded to f32; a dropped y is +0, whatever x is.
//!
//! Tolerance: none; the same bits at every level and for any number of threads (which NaN is not specified). Zero
//! elements do nothing.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::philox::Key;
use crate::view::{Invalid, View};

/// y = x / (1 - probability) or 0.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Input.
    pub x: View<'a>,
    /// Probability that an element is dropped, in \[0, 1).
    pub probability: f32,
    /// The stream of random numbers.
    pub key: Key,
    /// Index in the stream of x's first element: where a shard starts in its tensor.
    pub first_index: u64,
    /// Output; may be `x`.
    pub y: View<'a>,
}

/// Random words below it drop their element.
pub fn threshold(probability: f32) -> u32 {
    (f64::from(probability) * 2f64.powi(32)).round() as u32
}

/// What a kept element is multiplied by.
pub fn factor(probability: f32) -> f32 {
    (1.0 / (1.0 - f64::from(probability))) as f32
}

impl Op for Dropout<'_> {
    const NAME: &'static str = "dropout";

    views!(x, y);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        if !(0.0..1.0).contains(&self.probability) {
            return Err(Invalid::new("probability", format!("{} must be at least 0 and below 1", self.probability)));
        }
        self.key.check("key", self.first_index, self.x.numel())?;
        self.y.expect_like("y", &self.x, "x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.x, "x")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
