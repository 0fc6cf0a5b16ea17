//! Random numbers: against scalar Philox and f64 formulas, and their distributions.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::random::{Distribution, Random, reference};
use scalert_kernels::philox::Key;

const KEY: Key = Key { seed: 42, step: 7, tensor: 1 };
const UNIFORM: Distribution = Distribution::Uniform { low: -1.5, high: 2.25 };
const NORMAL: Distribution = Distribution::Normal { mean: 0.5, deviation: 2.0 };

fn draw(dtype: DType, n: usize, distribution: Distribution) -> Vec<f64> {
    let y = Tensor::new(dtype, &[n]);
    let op = Random { key: KEY, first_index: 0, distribution, y: y.view() };
    run_with(&op, *levels().last().unwrap(), 1);
    y.values()
}

#[test]
fn values_are_those_of_the_formulas_at_any_layout_and_index() {
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in LAYOUTS {
            for first_index in [0, 3, 64, (1 << 34) - 20, 1 << 50] {
                for distribution in [UNIFORM, NORMAL] {
                    let y = run_identically(|level, threads| {
                        let y = Tensor::with_layout(dtype, shape, padding, offset);
                        run_with(&Random { key: KEY, first_index, distribution, y: y.view() }, level, threads);
                        vec![y]
                    });
                    let what = format!("{dtype} {shape:?} {first_index} {distribution:?}");
                    for i in 0..y[0].numel() {
                        let index = first_index + i as u64;
                        let (expected, tolerance) = match distribution {
                            Distribution::Uniform { .. } => {
                                // The largest value below 2.25 has one unit less: 2^-22, 2^-6, 2^-9.
                                let limit = 2.25 - 4.0 * epsilon(dtype);
                                ((reference::uniform(KEY, index) * 3.75 - 1.5).min(limit), epsilon(DType::F32) * 4.0)
                            }
                            Distribution::Normal { .. } => {
                                let z = reference::normal(KEY, index);
                                (0.5 + 2.0 * z, 2e-6 * (1.0 + z.abs()))
                            }
                        };
                        let tolerance = tolerance + epsilon(dtype) * expected.abs() + 1e-7;
                        let value = y[0].get(i);
                        assert!((value - expected).abs() <= tolerance, "{what}: {i} is {value}, expected {expected}");
                    }
                }
            }
        }
    }
}

/// Largest distance between the distribution of `values` and `f`, times sqrt(n): 1.95 is exceeded once in a thousand.
fn kolmogorov(mut values: Vec<f64>, f: impl Fn(f64) -> f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let distance = |(i, x): (usize, &f64)| (f(*x) - i as f64 / n).abs().max((f(*x) - (i + 1) as f64 / n).abs());
    values.iter().enumerate().map(distance).fold(0.0, f64::max) * n.sqrt()
}

#[test]
fn uniform_numbers_are_uniform_and_below_high() {
    let values = draw(DType::F32, 200_000, UNIFORM);
    assert!(values.iter().all(|x| (-1.5..2.25).contains(x)));
    assert!(kolmogorov(values, |x| (x + 1.5) / 3.75) < 1.95);
    for (dtype, low, high) in [
        (DType::BF16, 0.0, 1.0),
        (DType::F16, -2.0, -1.0),
        (DType::F32, 1.0, 1.0 + f32::EPSILON),
        (DType::F16, 0.0, 1e6),
    ] {
        let values = draw(dtype, 100_000, Distribution::Uniform { low, high });
        let bounds = f64::from(low)..f64::from(high);
        assert!(values.iter().all(|x| bounds.contains(x) && x.is_finite()), "{dtype} {low} {high}");
    }
}

#[test]
fn normal_numbers_are_normal_and_independent() {
    let n = 400_000;
    let values = draw(DType::F32, n, Distribution::Normal { mean: 0.0, deviation: 1.0 });
    let mean = |f: &dyn Fn(usize) -> f64| (0..n - 4).map(f).sum::<f64>() / (n - 4) as f64;
    let root = (n as f64).sqrt();
    // Means of powers and of products of neighbours, within five deviations.
    assert!(mean(&|i| values[i]).abs() < 5.0 / root);
    assert!((mean(&|i| values[i].powi(2)) - 1.0).abs() < 5.0 * 2f64.sqrt() / root);
    assert!(mean(&|i| values[i].powi(3)).abs() < 5.0 * 15f64.sqrt() / root);
    assert!((mean(&|i| values[i].powi(4)) - 3.0).abs() < 5.0 * 96f64.sqrt() / root);
    for lag in 1..=4 {
        assert!(mean(&|i| values[i] * values[i + lag]).abs() < 5.0 / root, "lag {lag}");
        let squares = mean(&|i| (values[i].powi(2) - 1.0) * (values[i + lag].powi(2) - 1.0));
        assert!(squares.abs() < 5.0 * 2.0 / root, "squares, lag {lag}");
    }
    // By Simpson's rule.
    let distribution = |x: f64| {
        let density = |t: f64| (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt();
        let (steps, h) = (40, x / 40.0);
        let inner: f64 = (1..steps).map(|k| if k % 2 == 1 { 4.0 } else { 2.0 } * density(k as f64 * h)).sum();
        0.5 + h / 3.0 * (density(0.0) + inner + density(x))
    };
    assert!(kolmogorov(values, distribution) < 1.95);
}

#[test]
fn steps_and_tensors_give_other_numbers() {
    let y = |key| {
        let y = Tensor::new(DType::F32, &[1000]);
        run_with(&Random { key, first_index: 0, distribution: NORMAL, y: y.view() }, levels()[0], 1);
        y.bits()
    };
    let base = y(KEY);
    for other in [Key { seed: 43, ..KEY }, Key { step: 8, ..KEY }, Key { tensor: 2, ..KEY }] {
        let equal = base.iter().zip(y(other)).filter(|(a, b)| **a == *b).count();
        assert!(equal < 3, "{other:?}: {equal} of 1000 equal");
    }
}

#[test]
fn bad_arguments_are_named() {
    let y = Tensor::new(DType::F32, &[8]);
    let good = Random { key: KEY, first_index: 0, distribution: NORMAL, y: y.view() };
    assert!(good.check().is_ok());
    let refused = |op: Random<'_>| op.check().unwrap_err().argument;
    let with = |distribution| refused(Random { distribution, ..good });
    assert_eq!(with(Distribution::Uniform { low: f32::NAN, high: 1.0 }), "low");
    assert_eq!(with(Distribution::Uniform { low: 1.0, high: 1.0 }), "high");
    assert_eq!(with(Distribution::Uniform { low: -3e38, high: 3e38 }), "high");
    assert_eq!(with(Distribution::Normal { mean: f32::INFINITY, deviation: 1.0 }), "mean");
    assert_eq!(with(Distribution::Normal { mean: 0.0, deviation: -1.0 }), "deviation");
    assert_eq!(refused(Random { key: Key { step: 1 << 34, ..KEY }, ..good }), "key");
    assert_eq!(refused(Random { first_index: u64::MAX, ..good }), "key");
    assert_eq!(refused(Random { y: Tensor::new(DType::I64, &[8]).view(), ..good }), "y");
}
