//! Floating point as the device does it: canonical NaN, flushing, directed rounding, narrow formats.

use half::{bf16, f16};

/// How a result is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A binary format of at most 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Explicit bits of the significand.
    pub(crate) mantissa: u32,
    /// Bits of the exponent.
    pub(crate) exponent: u32,
}

pub(crate) const F32: Format = Format { mantissa: 23, exponent: 8 };
pub(crate) const F16: Format = Format { mantissa: 10, exponent: 5 };
pub(crate) const BF16: Format = Format { mantissa: 7, exponent: 8 };
/// f32 with a short significand; its bits stand at the top of an f32.
pub(crate) const TF32: Format = Format { mantissa: 10, exponent: 8 };

/// The NaN that the device returns for f32.
#[inline(always)]
pub(crate) fn canonical(value: f32) -> f32 {
    // On bits: for the compiler one NaN is as good as another.
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// Zero of the same sign for a subnormal.
#[inline(always)]
pub(crate) fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 1 << 31) } else { value }
}

/// Clamped to 0 to 1; NaN becomes 0.
#[inline(always)]
pub(crate) fn saturate(value: f32) -> f32 {
    if value > 0.0 { if value < 1.0 { value } else { 1.0 } } else { 0.0 }
}

/// Clamped to 0 to 1; NaN becomes 0.
#[inline(always)]
pub(crate) fn saturate64(value: f64) -> f64 {
    if value > 0.0 { if value < 1.0 { value } else { 1.0 } } else { 0.0 }
}

/// Rounds an f64 to a narrow format. An f64 that stands for an inexact value is to be rounded to odd first.
pub(crate) fn narrow(value: f64, format: Format, rounding: Rounding) -> u32 {
    let Format { mantissa, exponent } = format;
    let sign = u32::from(value.is_sign_negative()) << (mantissa + exponent);
    let infinity = ((1u32 << exponent) - 1) << mantissa;
    if value.is_nan() {
        return if mantissa == 23 || mantissa + exponent == 15 {
            infinity | ((1 << mantissa) - 1)
        } else {
            infinity | 1 << (mantissa - 1)
        };
    }
    if value.is_infinite() {
        return sign | infinity;
    }
    let bits = value.to_bits() & (u64::MAX >> 1);
    if bits == 0 {
        return sign;
    }
    let bias = (1i32 << (exponent - 1)) - 1;
    let (mut power, mut fraction) = ((bits >> 52) as i32 - 1023, bits & ((1 << 52) - 1));
    if bits >> 52 == 0 {
        // Subnormal as an f64: far below every narrow format; only its being nonzero matters.
        (power, fraction) = (-1022, fraction | 1);
    } else {
        fraction |= 1 << 52;
    }
    // Bits of `fraction` that are cut off.
    let least = 1 - bias;
    let cut = (52 - mantissa as i32 + (least - power).max(0)).min(62) as u32;
    let (kept, rest) =
        if cut >= 54 { (0, u64::from(fraction != 0)) } else { (fraction >> cut, fraction & ((1 << cut) - 1)) };
    let half = if cut >= 54 { 2 } else { 1u64 << (cut - 1) };
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => sign != 0 && rest != 0,
        Rounding::Up => sign == 0 && rest != 0,
    };
    let kept = kept as u32 + u32::from(up);
    let field = (power.max(least) + bias) as u32;
    // A significand with its leading bit counts as one in the exponent; a carry out of it raises the exponent.
    let magnitude = (i64::from(field - 1) << mantissa) + i64::from(kept);
    if magnitude >= i64::from(infinity) {
        let stays = match rounding {
            Rounding::Zero => true,
            Rounding::Down => sign == 0,
            Rounding::Up => sign != 0,
            _ => false,
        };
        return sign | if stays { infinity - 1 } else { infinity };
    }
    sign | magnitude as u32
}

/// Rounds to f32.
pub(crate) fn to_f32(value: f64, rounding: Rounding) -> f32 {
    f32::from_bits(narrow(value, F32, rounding))
}

/// Moves an f64 to the neighbour with an odd significand, given what is left over; no rounding after it errs twice.
fn to_odd(value: f64, rest: f64) -> f64 {
    if rest == 0.0 || value.to_bits() & 1 == 1 || !value.is_finite() || !rest.is_finite() {
        return value;
    }
    let bits = value.to_bits();
    if value == 0.0 {
        return rest.signum() * f64::from_bits(1);
    }
    let away = (rest > 0.0) == (value > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}

/// `a + b`, rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let back = sum - a;
    to_odd(sum, (a - (sum - back)) + (b - back))
}

/// `a * b + c`, rounded to odd; the product has to be exact.
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// `a / b`, rounded to odd.
pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    if !quotient.is_finite() || quotient == 0.0 || b.is_infinite() {
        return quotient;
    }
    let rest = (-quotient).mul_add(b, a);
    to_odd(quotient, if b < 0.0 { -rest } else { rest })
}

/// The square root, rounded to odd.
pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let root = a.sqrt();
    to_odd(root, (-root).mul_add(root, a))
}

/// Moves a rounded f64 to where another rounding would have put it, given what is left over.
pub(crate) fn redirect(value: f64, rest: f64, rounding: Rounding) -> f64 {
    if rest == 0.0 || !value.is_finite() || !rest.is_finite() {
        return value;
    }
    match rounding {
        Rounding::Up if rest > 0.0 => value.next_up(),
        Rounding::Down if rest < 0.0 => value.next_down(),
        Rounding::Zero if value > 0.0 && rest < 0.0 => value.next_down(),
        Rounding::Zero if value < 0.0 && rest > 0.0 => value.next_up(),
        _ => value,
    }
}

/// What is left over of `a + b`.
pub(crate) fn add_rest(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let back = sum - a;
    (a - (sum - back)) + (b - back)
}

/// The smaller number; NaN only if both are, or if `nan` and one is. -0 is smaller than 0.
#[inline(always)]
pub(crate) fn minimum(a: f32, b: f32, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if nan || a.is_nan() && b.is_nan() {
            f32::from_bits(0x7fff_ffff)
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    }
}

/// The larger number; as [`minimum`].
#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32, nan: bool) -> f32 {
    -minimum_raw(-a, -b, nan)
}

#[inline(always)]
fn minimum_raw(a: f32, b: f32, nan: bool) -> f32 {
    let least = minimum(a, b, nan);
    if least.is_nan() { f32::from_bits(0xffff_ffff) } else { least }
}

/// The nearest bf16, with the device's NaN.
#[inline(always)]
pub(crate) fn bf16_nearest(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    bf16::from_bits(if value.is_nan() { 0x7fff } else { rounded })
}

/// The nearest f16, with the device's NaN.
#[inline(always)]
pub(crate) fn f16_nearest(value: f32) -> f16 {
    if value.is_nan() { f16::from_bits(0x7fff) } else { f16::from_f32(value) }
}
