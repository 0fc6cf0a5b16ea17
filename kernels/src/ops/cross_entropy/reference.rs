//! The formulas in f64.

/// Losses of `targets.len()` rows of logits and, per logit, the gradient of its row's loss times `scale`.
pub fn cross_entropy(logits: &[f64], targets: &[i32], ignore_index: i32, scale: f64) -> (Vec<f64>, Vec<f64>) {
    let width = logits.len().checked_div(targets.len()).unwrap_or(0);
    let mut losses = vec![0.0; targets.len()];
    let mut gradients = vec![0.0; logits.len()];
    for (row, &target) in targets.iter().enumerate() {
        if target < 0 || (ignore_index != 0 && target == ignore_index) {
            continue;
        }
        let x = &logits[row * width..(row + 1) * width];
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
        losses[row] = largest + sum.ln() - x[target as usize];
        for (j, x) in x.iter().enumerate() {
            let onehot = if j == target as usize { 1.0 } else { 0.0 };
            gradients[row * width + j] = ((x - largest).exp() / sum - onehot) * scale;
        }
    }
    (losses, gradients)
}
