//! The formulas in f64.

use super::GeluKind;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

/// 1 - erf(x), with a relative error below 1e-13: the power series of erf that has no cancellation up to 1.5, the
/// continued fraction of erfc above (Abramowitz & Stegun 7.1.6 and 7.1.14).
pub fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 1.5 {
        return 1.0 - erf_series(x);
    }
    let mut fraction = x;
    for k in (1..=80).rev() {
        fraction = x + f64::from(k) / 2.0 / fraction;
    }
    (-x * x).exp() * FRAC_2_SQRT_PI / 2.0 / fraction
}

/// The error function, with a relative error below 1e-13.
pub fn erf(x: f64) -> f64 {
    if x.abs() < 1.5 { erf_series(x) } else { 1.0 - erfc(x) }
}

/// 2 / sqrt(pi) e^(-x^2) sum over n of 2^n x^(2n+1) / (1 3 5 … (2n+1)), for |x| < 1.5.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// gelu(x).
pub fn gelu(kind: GeluKind, x: f64) -> f64 {
    match kind {
        GeluKind::Exact => x * 0.5 * erfc(-x * FRAC_1_SQRT_2),
        GeluKind::Tanh => x * 0.5 * (1.0 + inner(x).tanh()),
    }
}

/// The derivative of gelu at x.
pub fn gelu_gradient(kind: GeluKind, x: f64) -> f64 {
    match kind {
        GeluKind::Exact => 0.5 * erfc(-x * FRAC_1_SQRT_2) + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt(),
        GeluKind::Tanh => {
            let t = inner(x).tanh();
            let du = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            // 0 times an infinite slope far out: the limit is meant, not the product.
            let slope = if t * t == 1.0 { 0.0 } else { (1.0 - t * t) * du };
            0.5 * (1.0 + t) + 0.5 * x * slope
        }
    }
}

/// sqrt(2/pi) (x + 0.044715 x^3).
fn inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// y = gelu(x), element by element.
pub fn forward(kind: GeluKind, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| gelu(kind, *x)).collect()
}

/// dx = gelu'(x) dy, element by element.
pub fn backward(kind: GeluKind, x: &[f64], dy: &[f64]) -> Vec<f64> {
    x.iter().zip(dy).map(|(x, dy)| gelu_gradient(kind, *x) * dy).collect()
}
