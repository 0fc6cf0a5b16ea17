//! The rounding in f64.

use crate::dtype::DType;

/// The element of `dtype` nearest to `x`, an f32; bf16 ties go away from zero, f16 ties to even.
pub fn write_back(x: f64, dtype: DType) -> f64 {
    // Mantissa bits, smallest normal exponent and largest finite value.
    let (bits, least, largest): (i32, i32, f64) = match dtype {
        DType::BF16 => (7, -126, 2f64.powi(127) * (2.0 - 2f64.powi(-7))),
        DType::F16 => (10, -14, 65504.0),
        _ => return x,
    };
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let unit = 2f64.powi((x.abs().log2().floor() as i32).max(least) - bits);
    // Exact: a division by a power of two, inside f64's range.
    let units = x / unit;
    let rounded = if dtype == DType::BF16 { units.round() } else { units.round_ties_even() } * unit;
    if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded.copysign(x) }
}
