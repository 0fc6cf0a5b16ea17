//! Exact sums.

use super::submit;
use crate::argument::{Array, Enum, Live, OptionalOut, Out};
use crate::tensor::TensorView;
use scalert_runtime::Stream;
use scalert_runtime::exact_sum::{Accumulator, WORDS};
use scalert_runtime::ops::exact_sum::ExactSum;

/// `scalert_sum_t`: what is summed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Summand {
    /// The elements.
    Values,
    /// Their squares.
    Squares,
}

c_enum! {
    Summand as "scalert_sum_t" {
        SCALERT_SUM_OF_VALUES = 0 => Summand::Values,
        SCALERT_SUM_OF_SQUARES = 1 => Summand::Squares,
    }
}

export! {
    /// accumulator += sum of x or of x^2.
    fn scalert_exact_sum(stream: Live<Stream>, x: TensorView, kind: Enum<Summand>, accumulator: TensorView) {
        submit(stream, &ExactSum { x, square: kind == Summand::Squares, accumulator })
    }

    /// The nearest double to what the limbs hold.
    fn scalert_exact_sum_read(limbs: Array<i64, WORDS>, sum: Out<f64>, nonfinite: OptionalOut<Out<u64>>) {
        let accumulator = Accumulator { words: *limbs };
        sum.write(accumulator.sum());
        if let Some(nonfinite) = nonfinite {
            nonfinite.write(accumulator.nonfinite());
        }
        Ok(())
    }
}
