//! The oracle: algorithm 2 of the paper in f64, with PyTorch's place for epsilon.

/// Hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Step `t` = 1, 2, … of parameters `p` with gradient `g`.
pub fn adamw(h: Hyper, t: i32, g: &[f64], p: &mut [f64], m: &mut [f64], v: &mut [f64]) {
    for i in 0..p.len() {
        p[i] -= h.learning_rate * h.weight_decay * p[i];
        m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g[i];
        v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g[i] * g[i];
        let m_hat = m[i] / (1.0 - h.beta1.powi(t));
        let v_hat = v[i] / (1.0 - h.beta2.powi(t));
        p[i] -= h.learning_rate * m_hat / (v_hat.sqrt() + h.epsilon);
    }
}
