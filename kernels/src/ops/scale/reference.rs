//! The oracle.

/// alpha x.
pub fn scale(alpha: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| alpha * x).collect()
}
