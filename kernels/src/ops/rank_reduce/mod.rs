//! The elements of the ranks of a group become one: y = ((x0 + x1) + x2) + ..., or their mean or largest.
//!
//! | argument | shape | dtype |
//! |---|---|---|
//! | inputs | one or more of one shape, contiguous, in the order of ranks | f32, bf16, f16, i64 |
//! | outputs | one or more of that shape, contiguous | that of inputs |
//!
//! Every output becomes the same; each is exactly one of the inputs or apart from all of them, and apart from the other
//! outputs. 16-bit floats are summed in f32 and rounded once, to nearest even. The mean is the sum divided by the number
//! of inputs, floats only. Integers wrap around. The largest is a NaN if one is; of zeros of both signs, the first.
//!
//! Tolerance: none; the same bits at every level, for any number of threads and however tensors are divided (which NaN a
//! NaN becomes is not specified).
//!
//! It reads memory of several ranks of one process, which are on the CPU: there is no device version.

mod cpu;
pub mod reference;

use super::Op;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu};
use crate::dtype::DType;
use crate::view::{Invalid, View};

/// How the elements of the ranks become one. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Reduction {
    /// Their sum. 16-bit floats are summed in f32 and rounded once.
    Sum = 0,
    /// The largest; a NaN if one is.
    Max = 1,
    /// Their sum divided by the number of ranks; floats only.
    Mean = 2,
}

impl Reduction {
    /// Requires a dtype whose elements can be reduced so.
    pub fn expect_dtype(self, argument: &'static str, x: &View<'_>) -> Result<(), Invalid> {
        match self {
            Reduction::Mean => x.expect_dtype(argument, &DType::FLOATS),
            Reduction::Sum | Reduction::Max => {
                x.expect_dtype(argument, &[DType::F32, DType::BF16, DType::F16, DType::I64])
            }
        }
    }
}

/// One call; the module says what it computes.
#[derive(Clone, Copy, Debug)]
pub struct RankReduce<'a> {
    /// What each rank has, in their order.
    pub inputs: &'a [View<'a>],
    /// How they become one.
    pub reduction: Reduction,
    /// Where it goes.
    pub outputs: &'a [View<'a>],
}

impl Op for RankReduce<'_> {
    const NAME: &'static str = "rank_reduce";

    fn views(&self, visit: &mut dyn FnMut(&'static str, &View<'_>)) {
        self.inputs.iter().for_each(|x| visit("inputs", x));
        self.outputs.iter().for_each(|y| visit("outputs", y));
    }

    fn check(&self) -> Result<(), Invalid> {
        let (Some(first), false) = (self.inputs.first(), self.outputs.is_empty()) else {
            let empty = if self.inputs.is_empty() { "inputs" } else { "outputs" };
            return Err(Invalid::new(empty, "there must be one or more"));
        };
        for x in self.inputs {
            self.reduction.expect_dtype("inputs", x)?;
            x.expect_like("inputs", first, "the first one")?;
            x.expect_contiguous("inputs")?;
        }
        for (i, y) in self.outputs.iter().enumerate() {
            y.expect_like("outputs", first, "the inputs")?;
            y.expect_contiguous("outputs")?;
            for x in self.inputs {
                y.expect_same_or_apart("outputs", x, "an input")?;
            }
            for other in &self.outputs[..i] {
                y.expect_apart("outputs", other, "another output")?;
            }
        }
        Ok(())
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda(&self, _: &Gpu<'_>) -> Result<(), CudaError> {
        Err(Gpu::unavailable("rank_reduce", "it reads memory of ranks on the CPU"))
    }
}
