//! The oracle.

/// alpha x + y, rounded once to f64.
pub fn axpy(alpha: f64, x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| alpha.mul_add(*x, *y)).collect()
}
