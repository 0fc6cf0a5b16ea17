//! y = x in y's dtype, rounded to nearest even or stochastically.
//!
//! x and y have one shape of 0 to 5 dimensions, contiguous rows and each a dtype of f32, bf16, f16; y may be x where
//! both dtypes have the same size. The same dtype is copied bit by bit. Everything else goes through f32, which holds
//! all three exactly, so there is one rounding; denormals are kept and NaN stays NaN.
//!
//! **Nearest even.** As IEEE 754 says: past the largest finite value plus half a unit comes infinity.
//!
//! **Stochastic** (to bf16 and f16; to f32 every value is exact). With down and up the two neighbours in y's dtype of |x|,
//! unit their distance and f = (|x| - down) / unit, |y| is up with probability f, else down; the sign stays. The random
//! word w of an element comes from [`crate::philox`] with its row-major index plus `first_index`:
//!
//! | y | range of \|x\| | up when |
//! |---|---|---|
//! | bf16 | all | f + floor(w / 2^16) / 2^16 >= 1 |
//! | f16 | 2^-14 and more | f' + floor(w / 2^19) / 2^13 >= 1, with f' = f rounded down to a multiple of 2^-13 |
//! | f16 | below 2^-14 | floor(w / 2^8) / 2^24 < f |
//!
//! f of an f32 is a multiple of 2^-16 and 2^-13 in the first two rows, so the mean of y is x exactly; in the third it is
//! x within 2^-24 units. The largest finite value's upper neighbour (2^128, 65536) is stored as infinity, so only values
//! past the largest can become infinite, and infinities stay.
//!
//! Tolerance: none; the same bits at every level and for any number of threads (which NaN is not specified, but for
//! copies). Zero elements do nothing.
//!
//! Source: IEEE 754-2019; Gupta et al. 2015, "Deep learning with limited numerical precision".

mod cpu;
mod cuda;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::philox::Key;
use crate::view::{Invalid, View};

/// How a value between two of the narrower dtype is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    NearestEven,
    /// Up with probability proportional to the distance.
    Stochastic {
        /// The stream of random numbers.
        key: Key,
        /// Index in the stream of x's first element: where a shard starts in its tensor.
        first_index: u64,
    },
}

/// y = x.
#[derive(Clone, Copy, Debug)]
pub struct Cast<'a> {
    /// Input.
    pub x: View<'a>,
    /// Rounding.
    pub rounding: Rounding,
    /// Output.
    pub y: View<'a>,
}

impl Op for Cast<'_> {
    const NAME: &'static str = "cast";

    views!(x, y);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_rows("x")?;
        if let Rounding::Stochastic { key, first_index } = self.rounding {
            key.check("key", first_index, self.x.numel())?;
        }
        self.y.expect_dtype("y", &DType::FLOATS)?;
        self.y.expect_shape("y", self.x.shape(), "the shape of x")?;
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
