//! Element types, their sizes, and the scalar form of every conversion.
//!
//! The SIMD conversions of [`crate::backend::cpu`] give the same bits as the scalar ones here.

pub use half::{bf16, f16};

/// Element type of a tensor. The numbers are those of the C header, which has none for I16 and U8: hosts pass no such
/// tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum DType {
    /// IEEE binary32.
    F32 = 1,
    /// bfloat16: the upper half of a binary32.
    BF16 = 2,
    /// IEEE binary16.
    F16 = 3,
    /// 32-bit signed integer: token ids, targets, positions.
    I32 = 4,
    /// 64-bit signed integer: limbs of exact sums.
    I64 = 5,
    /// 16-bit signed integer: what a bf16 weight lacks of its master.
    I16 = 6,
    /// 8-bit unsigned integer: codes of a [`crate::dynamic_map::DynamicMap`].
    U8 = 7,
}

impl DType {
    /// Floating-point element types that operations store.
    pub const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

    /// The type with this number in the C header.
    pub fn from_raw(raw: i32) -> Option<DType> {
        use DType::*;
        [F32, BF16, F16, I32, I64, I16, U8].into_iter().find(|d| *d as i32 == raw)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::BF16 | DType::F16 | DType::I16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::I64 => 8,
        }
    }

    /// Name as written in messages.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::I16 => "i16",
            DType::U8 => "u8",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// f32 bits to bf16 bits, nearest with ties to even; denormals are kept, NaN stays NaN (made quiet).
#[inline(always)]
pub fn bf16_bits_nearest_even(bits: u32) -> u16 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x0040;
    }
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// f32 bits to bf16 bits, nearest with ties away from zero: how every optimizer writes weights back.
///
/// With this rounding x - weight always fits a signed 16-bit difference of bits, so a bf16 weight and a 16-bit
/// remainder hold the f32 master exactly.
#[inline(always)]
pub fn bf16_bits_nearest_away(bits: u32) -> u16 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x0040;
    }
    (bits.wrapping_add(0x8000) >> 16) as u16
}

/// Runs `$body` with `$t` bound to the Rust element type of a floating-point [`DType`].
///
/// Panics on an integer type: operations check dtypes first.
#[macro_export]
macro_rules! with_float {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::dtype::DType::BF16 => {
                type $t = $crate::dtype::bf16;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $t = $crate::dtype::f16;
                $body
            }
            other => unreachable!("{other} is not a float: the operation's check let it through"),
        }
    };
}
