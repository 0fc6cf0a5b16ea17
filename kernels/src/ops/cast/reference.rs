//! The oracle: the neighbours of a value on the grid of a dtype, in f64.

use crate::dtype::DType;

/// The neighbours of |x| in a 16-bit dtype, and where between them it lies: (down, up, (|x| - down) / (up - down)). `up`
/// may lie past the largest finite value.
fn neighbours(dtype: DType, x: f64) -> (f64, f64, f64) {
    let (precision, least_exponent) = match dtype {
        DType::BF16 => (8, -126),
        DType::F16 => (11, -14),
        _ => unreachable!("{dtype} is not a 16-bit float"),
    };
    let size = x.abs();
    let exponent = if size == 0.0 { least_exponent } else { (size.log2().floor() as i32).max(least_exponent) };
    // log2 may round up to the next integer.
    let exponent = if size < 2f64.powi(exponent) { (exponent - 1).max(least_exponent) } else { exponent };
    let unit = 2f64.powi(exponent - precision + 1);
    let down = (size / unit).floor() * unit;
    (down, down + unit, (size - down) / unit)
}

/// Values past the largest finite one are infinite.
fn finish(dtype: DType, size: f64, sign: f64) -> f64 {
    let limit = if dtype == DType::BF16 { 2f64.powi(128) } else { 65536.0 };
    (if size >= limit { f64::INFINITY } else { size }).copysign(sign)
}

/// x in `dtype`, nearest, ties to even.
pub fn nearest_even(dtype: DType, x: f64) -> f64 {
    if dtype == DType::F32 || !x.is_finite() {
        return x;
    }
    let (down, up, fraction) = neighbours(dtype, x);
    let even = (down / (up - down)) % 2.0 == 0.0;
    finish(dtype, if fraction < 0.5 || (fraction == 0.5 && even) { down } else { up }, x)
}

/// x, an f32 value, in `dtype`, rounded stochastically with the random word `word`.
pub fn stochastic(dtype: DType, x: f64, word: u32) -> f64 {
    if dtype == DType::F32 || !x.is_finite() {
        return x;
    }
    let (down, up, fraction) = neighbours(dtype, x);
    let word = f64::from(word);
    let goes_up = match dtype {
        DType::BF16 => fraction + (word / 65536.0).floor() / 65536.0 >= 1.0,
        _ if x.abs() < 2f64.powi(-14) => (word / 256.0).floor() / 2f64.powi(24) < fraction,
        _ => fraction + (word / 2f64.powi(19)).floor() / 8192.0 >= 1.0,
    };
    finish(dtype, if goes_up { up } else { down }, x)
}
