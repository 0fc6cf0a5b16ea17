//! The memory of a group: parts of its flat space, which rank keeps which of them, and the formats that elements are kept in.

use super::parameter::Parameter;
use crate::error::Result;
use crate::memory::Block;
use crate::shard::Stage;
use crate::shard::layout::{BLOCK, Division};
use crate::stream::Queue;
use scalert_kernels::dtype::DType;
use scalert_kernels::dynamic_map::Sign;
use scalert_kernels::ops::blockwise::{Dequantize, Quantize};
use scalert_kernels::ops::cast::{Cast, Rounding};
use scalert_kernels::ops::split16::{Join, Split};
use scalert_kernels::ops::write_back::WriteBack;
use scalert_kernels::view::View;
use std::ops::Range;

/// A part of the flat space in memory; padding is zero and stays so.
pub(super) struct Flat {
    pub(super) block: Block,
    pub(super) dtype: DType,
    pub(super) covers: Range<usize>,
}

impl Flat {
    fn at(&self, element: usize) -> *mut u8 {
        self.block.data().as_ptr().wrapping_add((element - self.covers.start) * self.dtype.size())
    }

    /// Elements of the flat space, which it covers.
    pub(super) fn view<'a>(&self, range: Range<usize>) -> View<'a> {
        assert!(self.covers.start <= range.start && range.end <= self.covers.end);
        // SAFETY: the block has the elements that it covers; the state lends its memory to one call at a time, and to the
        // host by acquire, for reading.
        unsafe { View::new("group", self.at(range.start), self.dtype, &[range.len()], &[1]) }.expect("a valid view")
    }

    /// A parameter in its shape; None when it is not covered whole.
    pub(super) fn parameter<'a>(&self, parameter: &Parameter) -> Option<View<'a>> {
        let Range { start, end } = parameter.range;
        if start < self.covers.start || end > self.covers.end {
            return None;
        }
        // SAFETY: as in `view`.
        let view =
            unsafe { View::new("parameter", self.at(start), self.dtype, &parameter.info.shape, &parameter.stride) };
        Some(view.expect("a valid view"))
    }
}

/// Which part of the flat space a rank keeps of each kind of state.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    pub(super) division: Division,
    /// All of it.
    pub(super) all: Range<usize>,
    /// The rank's own range.
    pub(super) own: Range<usize>,
    pub(super) stage: Stage,
}

impl Shards {
    fn from(&self, stage: Stage) -> Range<usize> {
        if self.stage >= stage { self.own.clone() } else { self.all.clone() }
    }

    /// Weights that the model reads.
    pub(super) fn weights(&self) -> Range<usize> {
        self.from(Stage::Parameters)
    }

    /// What the optimizer updates, and keeps state for.
    pub(super) fn updated(&self) -> Range<usize> {
        self.from(Stage::Optimizer)
    }

    /// Gradient accumulators.
    pub(super) fn gradients(&self) -> Range<usize> {
        self.from(Stage::Gradients)
    }
}

/// The blocks of 256 elements that a range touches; it begins with one.
pub(super) fn blocks(range: &Range<usize>) -> Range<usize> {
    debug_assert!(range.start.is_multiple_of(BLOCK));
    range.start / BLOCK..range.end.div_ceil(BLOCK)
}

/// What is kept of a group, each in a memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Weight,
    Master,
    Remainder,
    Moment,
    Scale,
    Gradient,
}

/// Elements in the format that they are kept in.
pub(super) enum Span<'a> {
    /// Floats, and the weights that they are rounded into.
    Floats { elements: View<'a>, copy: Option<View<'a>> },
    /// The high and the low halves of f32.
    Split { weight: View<'a>, remainder: View<'a> },
    /// 8-bit codes.
    Codes { codes: View<'a>, absmax: View<'a>, sign: Sign },
}

impl Span<'_> {
    /// Writes them to `y`, f32.
    pub(super) fn read(&self, queue: &mut Queue<'_>, y: View<'_>) -> Result<()> {
        match *self {
            Span::Floats { elements, .. } => queue.submit(&Cast { x: elements, rounding: Rounding::NearestEven, y }),
            Span::Split { weight, remainder } => queue.submit(&Join { weight, remainder, y }),
            Span::Codes { codes, absmax, sign } => queue.submit(&Dequantize { codes, absmax, sign, y }),
        }
    }

    /// Sets them to `x`: floats, f32 where the format is not floats.
    pub(super) fn write(&self, queue: &mut Queue<'_>, x: View<'_>) -> Result<()> {
        match *self {
            Span::Floats { elements, copy } => {
                queue.submit(&Cast { x, rounding: Rounding::NearestEven, y: elements })?;
                copy.map_or(Ok(()), |weight| queue.submit(&WriteBack { master: elements, weight }))
            }
            Span::Split { weight, remainder } => queue.submit(&Split { x, weight, remainder }),
            Span::Codes { codes, absmax, sign } => queue.submit(&Quantize { x, sign, codes, absmax }),
        }
    }
}
