//! Dropout: which elements, what they become, and how many.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::dropout::{Dropout, factor, reference};
use scalert_kernels::philox::Key;

const KEY: Key = Key { seed: 9, step: 1 << 33, tensor: u32::MAX };

#[test]
fn bits_are_those_of_the_contract_apart_and_in_place() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in LAYOUTS {
            for (probability, first_index) in [(0.0f32, 0), (0.1, 5), (0.5, 1 << 40), (0.999, 64)] {
                let x = Tensor::with_layout(dtype, shape, padding, offset).fill(|_| hostile(&mut rng));
                let outputs = run_identically(|level, threads| {
                    let (y, z) = (Tensor::with_layout(dtype, shape, 2, 1), x.clone());
                    let op = Dropout { x: x.view(), probability, key: KEY, first_index, y: y.view() };
                    run_with(&op, level, threads);
                    run_with(&Dropout { x: z.view(), y: z.view(), ..op }, level, threads);
                    vec![y, z]
                });
                let kept = reference::dropout(&vec![1.0; x.numel()], probability.into(), KEY, first_index);
                let expected = Tensor::new(dtype, shape)
                    .fill(|i| if kept[i] == 0.0 { 0.0 } else { (x.get(i) as f32 * factor(probability)).into() });
                let what = format!("{dtype} {shape:?} {probability}");
                outputs.iter().for_each(|y| assert_same(&what, y, &expected));
                if x.values().iter().all(|x| x.is_finite()) {
                    let values = reference::dropout(&x.values(), probability.into(), KEY, first_index);
                    assert_close(&what, &outputs[0], &values, 2.0 * epsilon(dtype), 6e-8);
                }
            }
        }
    }
}

#[test]
fn the_expected_part_is_dropped_and_the_mean_kept() {
    let n = 1 << 18;
    let (x, y) = (Tensor::new(DType::F32, &[n]).fill(|_| 1.0), Tensor::new(DType::F32, &[n]));
    for probability in [0.1f32, 0.5, 0.9] {
        let op = Dropout { x: x.view(), probability, key: KEY, first_index: 0, y: y.view() };
        run_with(&op, *levels().last().unwrap(), 1);
        let dropped = y.values().iter().filter(|y| **y == 0.0).count() as f64;
        let p = f64::from(probability);
        assert!((dropped - n as f64 * p).abs() < 5.0 * (n as f64 * p * (1.0 - p)).sqrt(), "{dropped} of {n} at {p}");
    }
}

#[test]
fn the_backward_pass_is_the_same_call() {
    let mut rng = Rng(2);
    let n = 100;
    let (x, dy) =
        (Tensor::new(DType::F32, &[n]).normal(&mut rng, 1.0), Tensor::new(DType::F32, &[n]).normal(&mut rng, 1.0));
    let dx = Tensor::new(DType::F32, &[n]);
    let op = Dropout { x: dy.view(), probability: 0.3, key: KEY, first_index: 11, y: dx.view() };
    for target in targets() {
        run_with(&op, target, 1);
        for i in 0..n {
            let loss = |x: &[f64]| {
                let y = reference::dropout(x, 0.3f32.into(), KEY, 11);
                y.iter().zip(dy.values()).map(|(y, dy)| y * dy).sum()
            };
            let expected = central_difference(&x.values(), i, 1e-3, loss);
            assert!((dx.get(i) - expected).abs() < 1e-6, "{}: {i}: {} and {expected}", target.name(), dx.get(i));
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let (x, y) = (Tensor::new(DType::F32, &[8]), Tensor::new(DType::F32, &[8]));
    let good = Dropout { x: x.view(), probability: 0.5, key: KEY, first_index: 0, y: y.view() };
    assert!(good.check().is_ok());
    let refused = |op: Dropout<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Dropout { probability: 1.0, ..good }), "probability");
    assert_eq!(refused(Dropout { probability: -0.1, ..good }), "probability");
    assert_eq!(refused(Dropout { probability: f32::NAN, ..good }), "probability");
    assert_eq!(refused(Dropout { key: Key { step: u64::MAX, ..KEY }, ..good }), "key");
    assert_eq!(refused(Dropout { x: Tensor::new(DType::I32, &[8]).view(), ..good }), "x");
    assert_eq!(refused(Dropout { y: Tensor::new(DType::BF16, &[8]).view(), ..good }), "y");
}
