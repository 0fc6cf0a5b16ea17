//! Parameters, and the parts of their state.

use crate::shard::layout::contiguous_strides;
use scalert_kernels::dtype::DType;
use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;

/// The parts of a parameter's state. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Part {
    /// f32 weights; writing it also rounds them into the weight.
    Master = 0,
    /// AdamW m, Lion m, SGD momentum buffer.
    Moment1 = 1,
    /// AdamW v.
    Moment2 = 2,
    /// Accumulated so far in this step; read only.
    Gradient = 3,
}

impl Part {
    /// Name as in the C header without its prefix.
    pub fn name(self) -> &'static str {
        ["MASTER", "MOMENT1", "MOMENT2", "GRADIENT"][self as usize]
    }
}

/// What a parameter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Its name. The state holds it too: its bytes stay where they are while the state lives.
    pub name: Arc<CStr>,
    /// Its group.
    pub group: u32,
    /// Element type of its weight.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A parameter of a state.
pub(super) struct Parameter {
    pub(super) info: ParameterInfo,
    /// Strides of its contiguous shape.
    pub(super) stride: Vec<usize>,
    /// Its elements in the flat space of its group.
    pub(super) range: Range<usize>,
}

impl Parameter {
    pub(super) fn new(info: ParameterInfo, range: Range<usize>) -> Parameter {
        Parameter { stride: contiguous_strides(&info.shape), info, range }
    }

    /// Bytes of its weight.
    pub(super) fn weight_bytes(&self) -> usize {
        self.range.len() * self.info.dtype.size()
    }

    /// Its name in messages.
    pub(super) fn name(&self) -> &str {
        self.info.name.to_str().expect("checked when it was added")
    }
}
