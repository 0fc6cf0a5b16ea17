//! The oracle: `torch.optim.SGD` in f64.

/// Hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum; 0 is none.
    pub momentum: f64,
    /// Part of the gradient kept out of the buffer.
    pub dampening: f64,
    /// Whether to look ahead.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// Step `t` = 1, 2, … of parameters `p` with gradient `g` and momentum buffer `b`.
pub fn sgd(h: Hyper, t: i32, g: &[f64], p: &mut [f64], b: &mut [f64]) {
    for i in 0..p.len() {
        let mut d = g[i] + h.weight_decay * p[i];
        if h.momentum != 0.0 {
            b[i] = if t == 1 { d } else { h.momentum * b[i] + (1.0 - h.dampening) * d };
            d = if h.nesterov { d + h.momentum * b[i] } else { b[i] };
        }
        p[i] -= h.learning_rate * d;
    }
}
