//! The oracle: algorithm 2 of the paper in f64.

/// Hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Learning rate.
    pub learning_rate: f64,
    /// Interpolation of the update.
    pub beta1: f64,
    /// Decay of the moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// One step of parameters `p` with gradient `g` and moment `m`.
pub fn lion(h: Hyper, g: &[f64], p: &mut [f64], m: &mut [f64]) {
    for i in 0..p.len() {
        let c = h.beta1 * m[i] + (1.0 - h.beta1) * g[i];
        let sign = if c == 0.0 || c.is_nan() { c } else { c.signum() };
        p[i] -= h.learning_rate * (sign + h.weight_decay * p[i]);
        m[i] = h.beta2 * m[i] + (1.0 - h.beta2) * g[i];
    }
}
