//! The sums in f64.

/// Column sums of the row-major `dy` with rows of `n`, added to `dbias`.
pub fn bias_gradient(n: usize, dy: &[f64], dbias: &[f64]) -> Vec<f64> {
    let mut sums = dbias.to_vec();
    for (i, x) in dy.iter().enumerate() {
        sums[i % n] += x;
    }
    sums
}
