//! The product in f64, one element after the other.

use super::Activation;
use crate::ops::gelu::GeluKind;
use crate::ops::gelu::reference::{gelu, gelu_gradient};

/// op(a) op(b), row-major, of row-major matrices: `a` is `[m, k]` (`[k, m]` if `transpose_a`), `b` is `[k, n]`
/// (`[n, k]` if `transpose_b`).
pub fn product([m, n, k]: [usize; 3], [transpose_a, transpose_b]: [bool; 2], a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut result = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let x = if transpose_a { a[l * m + i] } else { a[i * k + l] };
                let y = if transpose_b { b[j * k + l] } else { b[l * n + j] };
                result[i * n + j] += x * y;
            }
        }
    }
    result
}

/// The value before a forward activation: alpha product + beta c + bias, with rows of `n`. `c` is not read if beta
/// is 0.
pub fn affine(n: usize, product: &[f64], alpha: f64, beta: f64, c: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let value = |(i, x): (usize, &f64)| {
        let old = if beta == 0.0 { 0.0 } else { beta * c[i] };
        alpha * x + old + bias.map_or(0.0, |bias| bias[i % n])
    };
    product.iter().enumerate().map(value).collect()
}

/// A forward activation of each value.
pub fn forward(activation: Activation, x: &[f64]) -> Vec<f64> {
    let each = |x: &f64| match activation {
        Activation::GeluTanh => gelu(GeluKind::Tanh, *x),
        Activation::GeluExact => gelu(GeluKind::Exact, *x),
        _ => *x,
    };
    x.iter().map(each).collect()
}

/// A backward activation: each product times the slope at its pre-activation.
pub fn backward(activation: Activation, product: &[f64], pre_activation: &[f64]) -> Vec<f64> {
    let slope = |x: &f64| match activation {
        Activation::GeluTanhBackward => gelu_gradient(GeluKind::Tanh, *x),
        Activation::GeluExactBackward => gelu_gradient(GeluKind::Exact, *x),
        _ => 1.0,
    };
    product.iter().zip(pre_activation).map(|(x, p)| x * slope(p)).collect()
}
