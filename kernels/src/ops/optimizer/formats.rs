//! How the state of an optimizer lies in memory.

use crate::dtype::DType;
use crate::dynamic_map::BLOCK;
use crate::philox::Key;
use crate::view::{Invalid, View};

/// The master weights, which are f32 in every format, and the weights that the model reads.
#[derive(Clone, Copy, Debug)]
pub enum Master<'a> {
    /// Master weights in f32.
    F32 {
        /// f32; updated.
        master: View<'a>,
        /// f32, bf16 or f16: the master, rounded; written.
        weight: Option<View<'a>>,
    },
    /// The bf16 weight and a remainder are the bits of the master: master = (weight << 16) + remainder, the very bits
    /// that [`Master::F32`] trains (which NaN a NaN is excepted).
    Split16 {
        /// bf16; updated.
        weight: View<'a>,
        /// i16: the low 16 bits of the master; updated.
        remainder: View<'a>,
    },
    /// There is none: the weight is updated in f32 and rounded stochastically. An f32 weight is its own master.
    Absent {
        /// f32, bf16 or f16; updated.
        weight: View<'a>,
    },
}

/// A moment.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'a> {
    /// f32, or bf16, which is rounded stochastically; updated.
    Plain(View<'a>),
    /// 8-bit codes of a [`DynamicMap`](crate::dynamic_map::DynamicMap), with a scale for each block of 256; updated.
    Int8 {
        /// u8.
        codes: View<'a>,
        /// f32, one for each 256 elements or fewer.
        absmax: View<'a>,
    },
}

/// Where the random words of a tensor that is rounded stochastically come from: [`crate::philox`].
///
/// The weights' words are the stream 2 tensor; the moments share the stream 2 tensor + 1, whose words round the first
/// moment by their high and the second by their low 16 bits. Element i of the tensors takes word first_index + i, so
/// the bits do not depend on where the tensors are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random {
    /// Of the whole run.
    pub seed: u64,
    /// Of training, below [`Key::STEPS`]. With a control block, the step is that of the block.
    pub step: u64,
    /// Which tensor; below 2^31.
    pub tensor: u32,
    /// Index of the first element.
    pub first_index: u64,
}

impl Random {
    /// The streams of the weights and of the moments.
    pub(super) fn keys(&self) -> [Key; 2] {
        let Random { seed, step, tensor, .. } = *self;
        [2 * tensor, 2 * tensor + 1].map(|tensor| Key { seed, step, tensor })
    }

    fn check(&self, numel: usize) -> Result<(), Invalid> {
        if self.tensor >= 1 << 31 {
            return Err(Invalid::new("random", format!("tensor {} must be below 2^31", self.tensor)));
        }
        self.keys()[0].check("random", self.first_index, numel)
    }
}

impl<'a> Master<'a> {
    /// As it is updated: an f32 weight without a master is one.
    pub(super) fn resolved(self) -> Master<'a> {
        match self {
            Master::Absent { weight } if weight.dtype() == DType::F32 => Master::F32 { master: weight, weight: None },
            _ => self,
        }
    }

    /// Calls `visit` with each tensor and its name.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, View<'a>)) {
        match *self {
            Master::F32 { master, weight } => {
                visit("master", master);
                weight.into_iter().for_each(|weight| visit("weight", weight));
            }
            Master::Split16 { weight, remainder } => {
                visit("weight", weight);
                visit("remainder", remainder);
            }
            Master::Absent { weight } => visit("weight", weight),
        }
    }

    fn check_dtypes(&self) -> Result<(), Invalid> {
        match self {
            Master::F32 { master, weight } => {
                master.expect_dtype("master", &[DType::F32])?;
                weight.map_or(Ok(()), |weight| weight.expect_dtype("weight", &DType::FLOATS))
            }
            Master::Split16 { weight, remainder } => {
                weight.expect_dtype("weight", &[DType::BF16])?;
                remainder.expect_dtype("remainder", &[DType::I16])
            }
            Master::Absent { weight } => weight.expect_dtype("weight", &DType::FLOATS),
        }
    }

    /// Whether it is rounded stochastically.
    fn is_random(&self) -> bool {
        matches!(self.resolved(), Master::Absent { .. })
    }
}

/// The names of a moment and of its scales.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Name {
    pub(in crate::ops) moment: &'static str,
    pub(in crate::ops) absmax: &'static str,
}

impl<'a> Moment<'a> {
    /// Its values or codes.
    pub(in crate::ops) fn elements(&self) -> View<'a> {
        match *self {
            Moment::Plain(view) | Moment::Int8 { codes: view, .. } => view,
        }
    }

    /// Its scales.
    pub(super) fn absmax(&self) -> Option<View<'a>> {
        match *self {
            Moment::Plain(_) => None,
            Moment::Int8 { absmax, .. } => Some(absmax),
        }
    }

    fn check(&self, name: Name) -> Result<(), Invalid> {
        match self {
            Moment::Plain(view) => view.expect_dtype(name.moment, &[DType::F32, DType::BF16]),
            Moment::Int8 { codes, absmax } => {
                codes.expect_dtype(name.moment, &[DType::U8])?;
                absmax.expect_dtype(name.absmax, &[DType::F32])?;
                let scales = codes.numel().div_ceil(BLOCK);
                absmax.expect_shape(
                    name.absmax,
                    &[scales],
                    format_args!("one for each {BLOCK} elements of {}", name.moment),
                )
            }
        }
    }
}

/// Requires dtypes, one format of all moments, a scale for each block, and random words where something is rounded by them.
pub(super) fn check(
    numel: usize,
    master: &Master<'_>,
    moments: &[(Name, Moment<'_>)],
    random: Option<&Random>,
) -> Result<(), Invalid> {
    master.check_dtypes()?;
    for (name, moment) in moments {
        moment.check(*name)?;
        let (dtype, first) = (moment.elements().dtype(), moments[0].1.elements().dtype());
        if dtype != first {
            let message = format!("dtype {dtype} must be {first}, the dtype of {}", moments[0].0.moment);
            return Err(Invalid::new(name.moment, message));
        }
    }
    let is_random = master.is_random() || moments.iter().any(|(_, moment)| moment.elements().dtype() == DType::BF16);
    match random {
        Some(random) => random.check(numel),
        None if is_random => {
            Err(Invalid::new("random", "must be given where there is no master, or with moments in bf16"))
        }
        None => Ok(()),
    }
}

/// Whether the master and all moments are f32: then rows may have gaps.
pub(super) fn is_plain(master: &Master<'_>, moments: &[(Name, Moment<'_>)]) -> bool {
    matches!(master.resolved(), Master::F32 { .. })
        && moments.iter().all(|(_, moment)| moment.elements().dtype() == DType::F32)
}
