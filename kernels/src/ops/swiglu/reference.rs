//! The formulas in f64.

/// z / (1 + e^-z).
pub fn silu(z: f64) -> f64 {
    z / (1.0 + (-z).exp())
}

/// The derivative of silu at z.
pub fn silu_gradient(z: f64) -> f64 {
    let sigma = 1.0 / (1.0 + (-z).exp());
    sigma * (1.0 + z * (1.0 - sigma))
}

/// y, element by element.
pub fn forward(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up).collect()
}

/// (dgate, dup), element by element.
pub fn backward(gate: &[f64], up: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let dgate = gate.iter().zip(up).zip(dy).map(|((gate, up), dy)| dy * up * silu_gradient(*gate)).collect();
    let dup = gate.iter().zip(dy).map(|(gate, dy)| dy * silu(*gate)).collect();
    (dgate, dup)
}
