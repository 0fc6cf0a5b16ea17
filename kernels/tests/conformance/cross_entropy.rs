use crate::device::cuda;
use crate::harness::{Rng, Tensor, assert_close, central_difference, epsilon, half_denormal, run_everywhere, run_with};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::cross_entropy::{CrossEntropy, reference};

fn targets_of(tensor: &Tensor) -> Vec<i32> {
    tensor.values().iter().map(|x| *x as i32).collect()
}

/// Runs and compares losses and gradients, apart and in place.
fn compare(what: &str, logits: &Tensor, targets: &Tensor, ignore_index: i32, scales: (f32, Option<f32>)) {
    let (dtype, shape) = (logits.dtype(), logits.shape().to_vec());
    let lead = &shape[..shape.len() - 1];
    let loss_scale = scales.1.map(|x| Tensor::new(DType::F32, &[]).fill(|_| f64::from(x)));
    let op = |logits: &Tensor, losses: &Tensor, dlogits: Option<&Tensor>, level, threads| {
        let op = CrossEntropy {
            logits: logits.view(),
            targets: targets.view(),
            ignore_index,
            gradient_scale: scales.0,
            loss_scale: loss_scale.as_ref().map(Tensor::view),
            losses: losses.view(),
            dlogits: dlogits.map(Tensor::view),
        };
        run_with(&op, level, threads);
    };
    let outputs = run_everywhere(|level, threads| {
        let losses = Tensor::with_layout(DType::F32, lead, 1, 1);
        let only = Tensor::new(DType::F32, lead);
        let dlogits = Tensor::with_layout(dtype, &shape, 5, 1);
        let in_place = logits.clone();
        op(logits, &losses, Some(&dlogits), level, threads);
        op(logits, &only, None, level, threads);
        assert!(losses.bits() == only.bits(), "{what}: losses depend on dlogits");
        op(&in_place, &only, Some(&in_place), level, threads);
        assert!(losses.bits() == only.bits(), "{what}: losses in place differ");
        assert!(dlogits.bits() == in_place.bits(), "{what}: gradients in place differ");
        vec![losses, dlogits]
    });
    let scale = f64::from(scales.0 * scales.1.unwrap_or(1.0));
    let (losses, gradients) = reference::cross_entropy(&logits.values(), &targets_of(targets), ignore_index, scale);
    let e32 = epsilon(DType::F32);
    for (level, out) in outputs {
        let what = format!("{what} {dtype} {shape:?} {}", level.name());
        assert_close(&format!("{what} losses"), &out[0], &losses, 8.0 * e32, 8.0 * e32);
        let absolute = 16.0 * e32 * scale.abs() + half_denormal(dtype);
        assert_close(&format!("{what} dlogits"), &out[1], &gradients, 2.0 * epsilon(dtype), absolute);
    }
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in [
            (vec![1], 0, 0),
            (vec![17], 0, 1),
            (vec![0, 9], 0, 0),
            (vec![3, 1], 2, 1),
            (vec![5, 7], 3, 1),
            (vec![2, 3, 16], 0, 0),
            (vec![4, 2, 63], 1, 3),
            (vec![3, 1025], 5, 1),
            (vec![2, 50_257], 7, 1),
            (vec![700, 65], 0, 0),
        ] {
            let width = *shape.last().unwrap();
            let spread = 1.0 + 4.0 * rng.uniform();
            let logits = Tensor::with_layout(dtype, &shape, padding, offset).normal(&mut rng, spread);
            let targets = Tensor::with_layout(DType::I32, &shape[..shape.len() - 1], 0, offset)
                .fill(|i| if i % 5 == 4 { -1.0 } else { rng.below(width) as f64 });
            compare("normal", &logits, &targets, 0, (1.0, None));
            compare("normal", &logits, &targets, 2, (0.125, Some(1024.0)));
        }
    }
}

#[test]
fn large_rows_of_growing_logits_rescale() {
    for dtype in DType::FLOATS {
        let logits = Tensor::new(dtype, &[3, 5000]).fill(|i| match i / 5000 {
            0 => (i % 5000) as f64 * 0.02,
            1 => (i % 5000) as f64 * -0.02,
            _ => 60000.0,
        });
        let targets = Tensor::new(DType::I32, &[3]).fill(|i| [4999.0, 4999.0, 0.0][i]);
        compare("ramp", &logits, &targets, 0, (3.0, None));
    }
}

#[test]
fn rows_beyond_the_shared_memory_of_a_device_match() {
    let mut rng = Rng(7);
    let logits = Tensor::new(DType::F32, &[2, 60_001]).normal(&mut rng, 3.0);
    let targets = Tensor::new(DType::I32, &[2]).fill(|i| [60_000.0, 17.0][i]);
    compare("long", &logits, &targets, 0, (0.5, None));
}

#[test]
fn values_that_are_not_finite_follow_the_reference() {
    let mut rng = Rng(2);
    for dtype in DType::FLOATS {
        for width in [3, 40, 3000] {
            let logits = Tensor::new(dtype, &[8, width]).fill(|i| {
                let (row, column) = (i / width, i % width);
                let last = column == width - 1;
                match row {
                    0 if last => f64::NAN,
                    1 if last => f64::INFINITY,
                    2 => f64::NEG_INFINITY,
                    3 if !last => f64::NEG_INFINITY,
                    4 if last => f64::NEG_INFINITY,
                    5 => f64::NAN,
                    6 => 1e-40,
                    _ => rng.normal(),
                }
            });
            // Row 4 has its target at -infinity; row 5 is ignored.
            let targets = Tensor::new(DType::I32, &[8])
                .fill(|row| [0.0, 0.0, 0.0, width as f64 - 1.0, width as f64 - 1.0, -7.0, 1.0, 1.0][row]);
            compare("special", &logits, &targets, 0, (1.0, Some(0.5)));
        }
    }
}

#[test]
fn a_loss_scale_that_is_nan_makes_all_gradients_nan() {
    // With all bits of the fraction set, which rounding must not carry over.
    let nan = f32::from_bits(0x7fff_ffff);
    for dtype in DType::FLOATS {
        let logits = Tensor::new(dtype, &[3, 70]).normal(&mut Rng(5), 1.0);
        let targets = Tensor::new(DType::I32, &[3]).fill(|row| row as f64);
        compare("NaN", &logits, &targets, -1, (1.0, Some(nan)));
    }
}

#[test]
fn the_ignore_index_counts_unless_it_is_zero() {
    let logits = Tensor::new(DType::F32, &[4, 3]).normal(&mut Rng(3), 1.0);
    let targets = Tensor::new(DType::I32, &[4]).fill(|i| [0.0, 100.0, 2.0, -100.0][i]);
    compare("ignored", &logits, &targets, 100, (1.0, None));
    let (losses, _) = reference::cross_entropy(&logits.values(), &targets_of(&targets), 100, 1.0);
    assert!(losses[0] > 0.0 && losses[1] == 0.0 && losses[2] > 0.0 && losses[3] == 0.0);
}

#[test]
fn on_a_device_a_target_of_no_class_makes_its_row_nan() {
    let Some(cuda) = cuda() else { return };
    for dtype in DType::FLOATS {
        let logits = Tensor::with_layout(dtype, &[4, 37], 1, 1).normal(&mut Rng(6), 1.0);
        let targets = Tensor::new(DType::I32, &[4]).fill(|i| [36.0, 37.0, f64::from(i32::MAX), f64::from(i32::MIN)][i]);
        let (losses, dlogits) = (Tensor::new(DType::F32, &[4]), Tensor::with_layout(dtype, &[4, 37], 3, 1));
        let op = CrossEntropy {
            logits: logits.view(),
            targets: targets.view(),
            ignore_index: 0,
            gradient_scale: 1.0,
            loss_scale: None,
            losses: losses.view(),
            dlogits: Some(dlogits.view()),
        };
        op.check().unwrap();
        cuda.run(&op);
        dlogits.assert_guards("dlogits");
        for row in 0..4 {
            let bad = row == 1 || row == 2;
            assert_eq!(losses.get(row).is_nan(), bad, "loss {row}");
            assert!((0..37).all(|j| dlogits.get(row * 37 + j).is_nan() == bad), "gradients of row {row}");
        }
        assert!(losses.get(3) == 0.0 && dlogits.get(3 * 37) == 0.0);
    }
}

#[test]
fn the_gradient_is_the_derivative() {
    let mut rng = Rng(4);
    let logits: Vec<f64> = (0..14).map(|_| rng.normal()).collect();
    let targets = [3, 6];
    let total = |x: &[f64]| reference::cross_entropy(x, &targets, 0, 1.0).0.iter().sum::<f64>() * 2.5;
    let (_, gradients) = reference::cross_entropy(&logits, &targets, 0, 2.5);
    for (i, gradient) in gradients.iter().enumerate() {
        let slope = central_difference(&logits, i, 1e-5, total);
        assert!((slope - gradient).abs() < 1e-8, "{i}: {slope} and {gradient}");
    }
}

#[test]
fn refuses_bad_arguments() {
    let f32s = |shape: &[usize]| Tensor::new(DType::F32, shape);
    let (logits, losses, dlogits) = (f32s(&[4, 6]), f32s(&[4]), f32s(&[4, 6]));
    let targets = Tensor::new(DType::I32, &[4]).fill(|i| i as f64);
    let (scale, scalar, pair) = (f32s(&[1]), f32s(&[]), f32s(&[2]));
    let good = CrossEntropy {
        logits: logits.view(),
        targets: targets.view(),
        ignore_index: 0,
        gradient_scale: 1.0,
        loss_scale: Some(scale.view()),
        losses: losses.view(),
        dlogits: Some(dlogits.view()),
    };
    assert_eq!(good.check(), Ok(()));
    let refused = |op: CrossEntropy<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(CrossEntropy { logits: targets.view(), ..good }), "logits");
    assert_eq!(refused(CrossEntropy { logits: scalar.view(), ..good }), "logits");
    assert_eq!(refused(CrossEntropy { targets: losses.view(), ..good }), "targets");
    let five = Tensor::new(DType::I32, &[5]);
    assert_eq!(refused(CrossEntropy { targets: five.view(), ..good }), "targets");
    assert_eq!(refused(CrossEntropy { gradient_scale: f32::NAN, ..good }), "gradient_scale");
    assert_eq!(refused(CrossEntropy { loss_scale: Some(pair.view()), ..good }), "loss_scale");
    assert_eq!(refused(CrossEntropy { loss_scale: Some(five.view()), ..good }), "loss_scale");
    assert_eq!(refused(CrossEntropy { losses: targets.view(), ..good }), "losses");
    assert_eq!(refused(CrossEntropy { losses: pair.view(), ..good }), "losses");
    let half = Tensor::new(DType::F16, &[4, 6]);
    assert_eq!(refused(CrossEntropy { dlogits: Some(half.view()), ..good }), "dlogits");
    assert_eq!(refused(CrossEntropy { dlogits: Some(losses.view()), ..good }), "dlogits");

    let high = Tensor::new(DType::I32, &[4]).fill(|i| [0.0, -1.0, 6.0, 7.0][i]);
    let error = CrossEntropy { targets: high.view(), ..good }.check_elements().unwrap_err();
    assert_eq!(error.argument, "targets");
    assert!(error.message.contains("target 6 of row 2"), "{error}");
    let ignored = CrossEntropy { targets: high.view(), ignore_index: 6, ..good }.check_elements().unwrap_err();
    assert!(ignored.message.contains("target 7 of row 3"), "{ignored}");
}
