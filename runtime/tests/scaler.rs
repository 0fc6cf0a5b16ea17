//! The loss scaler against a model of it, step by step.

mod harness;

use harness::{Tensor, element, runtime};
use proptest::prelude::*;
use scalert_runtime::{DType, Scaler, ScalerDesc, ScalerReport, Status, Stream};

fn count(n: i64) -> Tensor {
    Tensor::new(DType::I64, &[1]).fill(|_| n as f64)
}

#[test]
fn it_grows_backs_off_and_collapses_as_documented() {
    let runtime = runtime(1);
    let stream = Stream::new(&runtime).unwrap();
    let desc =
        ScalerDesc { initial_scale: 4.0, growth_interval: 2, maximum: 16.0, hysteresis: 2, ..Default::default() };
    let scaler = Scaler::new(&runtime, &desc).unwrap();
    let report = |scale, overflows, finite_steps, collapsed| ScalerReport { scale, overflows, finite_steps, collapsed };
    assert_eq!(scaler.read_wait().unwrap(), report(4.0, 0, 0, false));
    for (nonfinite, expected) in [
        (0, report(4.0, 0, 1, false)),
        (0, report(8.0, 0, 0, false)),
        (0, report(8.0, 0, 1, false)),
        (0, report(16.0, 0, 0, false)),
        (0, report(16.0, 0, 1, false)),
        (0, report(16.0, 0, 0, false)),
        (3, report(16.0, 1, 0, false)),
        (0, report(16.0, 1, 1, false)),
        (1, report(16.0, 2, 0, false)),
        (-1, report(8.0, 3, 0, false)),
        (1, report(4.0, 4, 0, false)),
        (1, report(2.0, 5, 0, false)),
        (1, report(1.0, 6, 0, false)),
        (1, report(1.0, 7, 0, true)),
        (0, report(1.0, 7, 1, false)),
        (1, report(1.0, 8, 0, true)),
        (0, report(1.0, 8, 1, false)),
        (0, report(2.0, 8, 0, false)),
    ] {
        scaler.update(&stream, count(nonfinite).view()).unwrap();
        assert_eq!(scaler.read_wait().unwrap(), expected);
        assert_eq!(element(&scaler.scale(), 0) as f32, expected.scale);
    }
}

#[test]
fn defaults_and_bad_descriptors() {
    let runtime = runtime(1);
    let scaler = Scaler::new(&runtime, &ScalerDesc::default()).unwrap();
    assert_eq!(scaler.read_wait().unwrap().scale, 65536.0);
    let report = runtime.memory_report();
    assert_eq!((report.tier[0].other, report.tier[2].other), (24, 24));
    let default = ScalerDesc::default();
    for (desc, argument) in [
        (ScalerDesc { growth_factor: 1.0, ..default }, "growth_factor"),
        (ScalerDesc { growth_factor: f32::INFINITY, ..default }, "growth_factor"),
        (ScalerDesc { backoff_factor: 1.0, ..default }, "backoff_factor"),
        (ScalerDesc { backoff_factor: -0.5, ..default }, "backoff_factor"),
        (ScalerDesc { minimum: -1.0, ..default }, "minimum"),
        (ScalerDesc { minimum: f32::NAN, ..default }, "minimum"),
        (ScalerDesc { minimum: 1e-45, ..default }, "minimum"),
        (ScalerDesc { maximum: 0.5, ..default }, "maximum"),
        (ScalerDesc { maximum: f32::INFINITY, ..default }, "maximum"),
        (ScalerDesc { initial_scale: 0.5, ..default }, "initial_scale"),
        (ScalerDesc { initial_scale: 1e30, ..default }, "initial_scale"),
        (ScalerDesc { initial_scale: f32::NAN, ..default }, "initial_scale"),
    ] {
        let error = Scaler::new(&runtime, &desc).err().expect(argument);
        assert_eq!(error.status, Status::InvalidArgument);
        assert!(error.message.starts_with(&format!("{argument}: ")), "{error}");
    }
    let stream = Stream::new(&runtime).unwrap();
    for bad in [Tensor::new(DType::I32, &[1]), Tensor::new(DType::I64, &[2]), Tensor::new(DType::I64, &[0])] {
        let error = scaler.update(&stream, bad.view()).unwrap_err();
        assert!(error.message.starts_with("nonfinite: "), "{error}");
    }
}

proptest! {
    #[test]
    fn any_sequence_stays_in_bounds_and_counts(
        overflows in prop::collection::vec(prop::bool::weighted(0.4), 0..200),
        hysteresis in 0u32..4,
        interval in 1u32..6,
    ) {
        let runtime = runtime(1);
        let stream = Stream::new(&runtime).unwrap();
        let desc = ScalerDesc {
            initial_scale: 32.0, minimum: 2.0, maximum: 1000.0, growth_factor: 3.0, hysteresis,
            growth_interval: interval, ..Default::default()
        };
        let scaler = Scaler::new(&runtime, &desc).unwrap();
        let mut scale = 32.0f32;
        for (i, overflow) in overflows.iter().enumerate() {
            let row = overflows[..=i].iter().rev().take_while(|o| **o).count();
            scaler.update(&stream, count(i64::from(*overflow)).view()).unwrap();
            let report = scaler.read_wait().unwrap();
            prop_assert_eq!(report.overflows, overflows[..=i].iter().filter(|o| **o).count() as u64);
            prop_assert_eq!(report.collapsed, *overflow && scale == 2.0);
            if *overflow && row >= hysteresis.max(1) as usize {
                scale = (scale / 2.0).max(2.0);
            }
            if !overflow && report.finite_steps == 0 {
                scale = (scale * 3.0).min(1000.0);
            }
            prop_assert_eq!(report.scale, scale);
            prop_assert!(report.finite_steps < interval);
        }
    }
}
