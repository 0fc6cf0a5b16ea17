//! The oracle.

/// (norm, clip factor, factor of the gradients) of finite gradients, naively in f64.
pub fn figures(gradients: &[f64], gradient_scale: f64, loss_scale: f64, max_norm: f64) -> (f64, f64, f64) {
    let unscaled = gradients.iter().map(|g| g * gradient_scale / loss_scale);
    let norm = unscaled.map(|g| g * g).sum::<f64>().sqrt();
    let clip = if max_norm > 0.0 && norm + 1e-6 > max_norm { max_norm / (norm + 1e-6) } else { 1.0 };
    (norm, clip, gradient_scale / loss_scale * clip)
}
