//! The formulas in f64, with all logits.

use crate::ops::cross_entropy::reference::cross_entropy;
use crate::ops::gemm::reference::product;

/// Losses, dx and dweight of row-major `x` `[n, c]` and `weight` `[v, c]`; `scale` is the factor of the gradients.
pub fn linear_cross_entropy(
    [n, v, c]: [usize; 3],
    x: &[f64],
    weight: &[f64],
    targets: &[i32],
    ignore_index: i32,
    scale: f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let logits = product([n, v, c], [false, true], x, weight);
    let (losses, dlogits) = cross_entropy(&logits, targets, ignore_index, scale);
    let dx = product([n, c, v], [false, false], &dlogits, weight);
    let dweight = product([v, c, n], [true, false], &dlogits, x);
    (losses, dx, dweight)
}
