//! y = random numbers, uniform or normal.
//!
//! y has a dtype of f32, bf16, f16, any shape of 0 to 5 dimensions and contiguous rows. The value of an element depends
//! on the key and on its row-major index plus `first_index` only; [`crate::philox`] gives its 32-bit word w and those of its
//! block of four, w0 … w3.
//!
//! * **Uniform** on \[low, high): min(fma(floor(w / 2^8) / 2^24, high - low, low), limit), where fma rounds once to f32,
//!   high - low is rounded to f32, and limit is the largest value of y's dtype below high; then rounded to y's dtype to
//!   nearest even (a low that y's dtype lacks may round down).
//! * **Normal** with this mean and standard deviation (Box & Muller 1958): z0 = r cos a, z1 = r sin a with
//!   r = sqrt(-2 ln u), u = fma(floor(w0 / 2), 2^-31, 2^-32) with both operations rounded to f32, a = 2 pi w1 / 2^32; z2
//!   and z3 likewise from w2 and w3. |z| is at most 6.67. y = fma(z, deviation, mean), rounded to y's dtype to nearest
//!   even.
//!
//! Tolerance of a normal value against the formula: 1e-6 deviation (1 + |z|) plus the rounding of its dtype. The same bits
//! at every level and for any number of threads. Zero elements do nothing.

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::{DType, bf16, f16};
use crate::philox::Key;
use crate::view::{Invalid, View};

/// What the numbers are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Uniform on \[low, high).
    Uniform {
        /// Least value.
        low: f32,
        /// Bound, never reached.
        high: f32,
    },
    /// Normal.
    Normal {
        /// Mean.
        mean: f32,
        /// Standard deviation, at least 0.
        deviation: f32,
    },
}

/// y = random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Random<'a> {
    /// The stream of random numbers.
    pub key: Key,
    /// Index in the stream of y's first element: where a shard starts in its tensor.
    pub first_index: u64,
    /// What they are drawn from.
    pub distribution: Distribution,
    /// Output.
    pub y: View<'a>,
}

/// The largest value of `dtype` below `high`.
fn largest_below(dtype: DType, high: f32) -> f32 {
    // The next lower value of a 16-bit float: sign and magnitude.
    let next_down = |bits: u16| match bits {
        0 => 0x8001,
        positive if positive < 0x8000 => positive - 1,
        negative => negative + 1,
    };
    let nearest = match dtype {
        DType::BF16 => bf16::from_f32(high).to_f32(),
        DType::F16 => f16::from_f32(high).to_f32(),
        _ => high,
    };
    if nearest < high {
        return nearest;
    }
    match dtype {
        DType::BF16 => bf16::from_bits(next_down(bf16::from_f32(high).to_bits())).to_f32(),
        DType::F16 => f16::from_bits(next_down(f16::from_f32(high).to_bits())).to_f32(),
        _ => high.next_down(),
    }
}

impl Op for Random<'_> {
    const NAME: &'static str = "random";

    views!(y);

    fn check(&self) -> Result<(), Invalid> {
        self.key.check("key", self.first_index, self.y.numel())?;
        match self.distribution {
            Distribution::Uniform { low, high } => {
                if !low.is_finite() {
                    return Err(Invalid::new("low", format!("{low} must be finite")));
                }
                if !((high - low).is_finite() && low < high) {
                    return Err(Invalid::new("high", format!("{high} must be more than low, {low}, by a finite f32")));
                }
            }
            Distribution::Normal { mean, deviation } => {
                if !mean.is_finite() {
                    return Err(Invalid::new("mean", format!("{mean} must be finite")));
                }
                if !(deviation.is_finite() && deviation >= 0.0) {
                    return Err(Invalid::new("deviation", format!("{deviation} must be finite and at least 0")));
                }
            }
        }
        self.y.expect_dtype("y", &DType::FLOATS)?;
        self.y.expect_writable_rows("y")
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
