//! Rotary position embedding: pairs of elements of each head turn by an angle proportional to the position.
//!
//! For pair `i` of `d / 2` at position `p`, with `a = p * base^(-2 i / d)` radians,
//!
//! ```text
//! y_first  = x_first * cos a - x_second * sin a
//! y_second = x_second * cos a + x_first * sin a
//! ```
//!
//! and `inverse` turns by `-a`, which is both the inverse and the backward pass (a rotation's transpose).
//!
//! Shapes: `x` and `y` are `[.., t, heads, d]`, three to five dimensions, `d` even; `positions` is i32 `[t]`, and stands
//! for `0..t` when absent. `x` and `y` have the same floating-point dtype; rows may be strided (a part of a packed
//! qkv tensor), and `y` may be `x` itself.
//!
//! Tolerance: sines and cosines are within 2^-22 for positions up to 2^20 either way (angles are reduced in f64), and
//! `|y - exact| <= epsilon(dtype) |exact| + 2^-21 (|x_first| + |x_second|)`.
//!
//! Source: Su et al. 2021, RoFormer, section 3.4.2; the pairings are those of GPT-NeoX and GPT-J.

mod cpu;
mod cuda;
pub mod reference;

use crate::backend::cpu::Cpu;
use crate::backend::cuda::{CudaError, Gpu, Properties};
use crate::dtype::DType;
use crate::ops::Op;
use crate::view::{Invalid, View};

/// Which elements of a head are turned together. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum RotaryLayout {
    /// Elements `i` and `i + d / 2` (GPT-NeoX, Llama in most frameworks).
    Halves = 0,
    /// Elements `2 i` and `2 i + 1` (GPT-J, the RoFormer paper).
    Interleaved = 1,
}

impl RotaryLayout {
    /// The layout with this number in the C header.
    pub fn from_raw(raw: i32) -> Option<RotaryLayout> {
        [RotaryLayout::Halves, RotaryLayout::Interleaved].into_iter().find(|l| *l as i32 == raw)
    }
}

/// Turns `x` by its positions into `y`; see the [module](self).
#[derive(Clone, Copy)]
pub struct Rotary<'a> {
    /// `[.., t, heads, d]`.
    pub x: View<'a>,
    /// i32 `[t]`; `0..t` when absent.
    pub positions: Option<View<'a>>,
    /// Base of the frequencies, finite and at least 1; 10000 in the paper.
    pub base: f32,
    /// Which elements form a pair.
    pub layout: RotaryLayout,
    /// Turn back: the backward pass.
    pub inverse: bool,
    /// `[.., t, heads, d]`; may be `x` itself.
    pub y: View<'a>,
}

impl Rotary<'_> {
    /// Tokens in a sequence.
    fn t(&self) -> usize {
        self.x.shape()[self.x.ndim() - 3]
    }
    /// Heads of a token.
    fn heads(&self) -> usize {
        self.x.shape()[self.x.ndim() - 2]
    }
    /// Sequences.
    fn batch(&self) -> usize {
        self.x.shape()[..self.x.ndim() - 3].iter().product()
    }
}

impl Op for Rotary<'_> {
    const NAME: &'static str = "rotary";

    views!(x, y; positions);

    fn check(&self) -> Result<(), Invalid> {
        self.x.expect_dtype("x", &DType::FLOATS)?;
        self.x.expect_ndim("x", 3, 5)?;
        self.x.expect_rows("x")?;
        if !self.x.width().is_multiple_of(2) {
            return Err(Invalid::new("x", format!("last dimension {} must be even", self.x.width())));
        }
        if let Some(positions) = &self.positions {
            positions.expect_dtype("positions", &[DType::I32])?;
            positions.expect_shape("positions", &[self.t()], "one position for each token of x")?;
            positions.expect_rows("positions")?;
        }
        if !(self.base.is_finite() && self.base >= 1.0) {
            return Err(Invalid::new("base", format!("{} must be finite and at least 1", self.base)));
        }
        self.y.expect_dtype("y", &[self.x.dtype()])?;
        self.y.expect_shape("y", self.x.shape(), "the shape of x")?;
        self.y.expect_writable_rows("y")?;
        self.y.expect_same_or_apart("y", &self.x, "x")?;
        self.positions.map_or(Ok(()), |positions| self.y.expect_apart("y", &positions, "positions"))
    }

    fn workspace(&self, workers: usize) -> usize {
        cpu::workspace(self, workers)
    }

    fn cpu(&self, cpu: &Cpu<'_>) {
        cpu::run(self, cpu);
    }

    fn cuda_workspace(&self, _properties: &Properties) -> usize {
        cuda::workspace(self)
    }

    fn cuda(&self, gpu: &Gpu<'_>) -> Result<(), CudaError> {
        cuda::run(self, gpu)
    }
}
