//! The oracle.

/// y = x with `overwrite`, y += x without, in f64; returns how many x are not finite.
pub fn accumulate(x: &[f64], overwrite: bool, y: &mut [f64]) -> u64 {
    for (x, y) in x.iter().zip(y) {
        *y = if overwrite { *x } else { *y + *x };
    }
    x.iter().filter(|x| !x.is_finite()).count() as u64
}
