//! AdamW: the bits of the contract's formula, and 100 steps of the paper's algorithm.

use crate::harness::*;
use crate::optimizer::{State, assert_bits, assert_controlled, assert_trajectory, control};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::adamw::{AdamW, bias_correction, reference};
use scalert_kernels::ops::optimizer::{Master, Moment};

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;

fn adamw(state: &State, t: i32) -> AdamW<'_> {
    AdamW {
        gradient: state.gradient.view(),
        gradient_scale: 1.0,
        learning_rate: 3e-3,
        beta1: BETA1,
        beta2: BETA2,
        epsilon: 1e-8,
        weight_decay: 0.1,
        bias_correction1: (1.0 - f64::from(BETA1).powi(t)) as f32,
        bias_correction2: (1.0 - f64::from(BETA2).powi(t)) as f32,
        master: state.master(),
        moment1: Moment::Plain(state.moments[0].view()),
        moment2: Moment::Plain(state.moments[1].view()),
        random: None,
        control: None,
    }
}

#[test]
fn bits_are_those_of_the_formula() {
    for (scale, weight_decay) in [(1.0, 0.1), (3.0517578e-5, 0.0), (0.7, 1e-4)] {
        let (rate, decay) = (
            (f64::from(3e-3f32) / f64::from((1.0 - f64::from(BETA1).powi(3)) as f32)) as f32,
            (f64::from(3e-3f32) * f64::from(weight_decay)) as f32,
        );
        let inverse_root = (1.0 / f64::from((1.0 - f64::from(BETA2).powi(3)) as f32).sqrt()) as f32;
        assert_bits(
            |state, level, threads| {
                run_with(&AdamW { gradient_scale: scale, weight_decay, ..adamw(state, 3) }, level, threads);
            },
            |gradient, master, [m, v]| {
                let g = gradient * scale;
                let m = BETA1.mul_add(m, (1.0 - f64::from(BETA1)) as f32 * g);
                let v = BETA2.mul_add(v, (1.0 - f64::from(BETA2)) as f32 * (g * g));
                let u = m / v.sqrt().mul_add(inverse_root, 1e-8);
                (master - decay.mul_add(master, rate * u), [m, v])
            },
        );
    }
}

#[test]
fn a_trajectory_is_that_of_the_paper() {
    for weight_decay in [0.0f32, 0.1] {
        let hyper = reference::Hyper {
            learning_rate: 3e-3f32.into(),
            beta1: BETA1.into(),
            beta2: BETA2.into(),
            epsilon: 1e-8f32.into(),
            weight_decay: weight_decay.into(),
        };
        assert_trajectory(
            2,
            |t, state| run_with(&AdamW { weight_decay, ..adamw(state, t) }, levels()[0], 1),
            |t, g, p, m| {
                let [m, v] = m else { unreachable!() };
                reference::adamw(hyper, t, g, p, m, v);
            },
            2e-6,
            1e-5,
        );
    }
}

#[test]
fn a_small_decay_is_not_lost() {
    let n = 64;
    let mut state = State::normal(DType::F32, n, 2);
    state.gradient = state.gradient.fill(|_| 0.0);
    state.moments = vec![Tensor::new(DType::F32, &[n]).fill(|_| 0.0); 2];
    state.master = state.master.fill(|i| 1.0 + i as f64 / n as f64);
    let before = state.master.values();
    for _ in 0..1000 {
        run_with(&AdamW { learning_rate: 1e-5, weight_decay: 0.02, ..adamw(&state, 1) }, levels()[0], 1);
    }
    let decayed: f64 = before.iter().zip(state.master.values()).map(|(b, a)| 1.0 - a / b).sum::<f64>() / n as f64;
    // 1 - 2e-7 is not an f32, so a factor (1 - decay) would be off by a fifth.
    assert!((decayed / 2e-4 - 1.0).abs() < 0.25, "{decayed}");
}

#[test]
fn a_control_block_decides() {
    assert_controlled(
        2,
        |state, step, gradient_scale, target| {
            let op = AdamW {
                gradient_scale,
                bias_correction1: bias_correction(BETA1, step),
                bias_correction2: bias_correction(BETA2, step),
                ..adamw(state, 3)
            };
            run_with(&op, target, 1);
        },
        |state, control, target| {
            let op = AdamW { gradient_scale: 7.0, control: Some(control.view()), ..adamw(state, 3) };
            run_with(&op, target, 1);
        },
    );
}

#[test]
fn bias_corrections_are_one_minus_the_power() {
    for beta in [0.9f32, 0.95, 0.99, 0.999, 0.5] {
        let mut power = 1.0f64;
        for step in 1..=5000u64 {
            power *= f64::from(beta);
            let correction = f64::from(bias_correction(beta, step));
            assert!((correction - (1.0 - power)).abs() <= 1e-7 * (1.0 - power), "{beta} {step}");
        }
        assert_eq!(bias_correction(beta, u64::MAX), 1.0);
        assert_eq!(bias_correction(beta, 0), bias_correction(beta, 1));
    }
}

#[test]
fn bad_arguments_are_named() {
    let state = State::normal(DType::F32, 8, 2);
    let good = adamw(&state, 1);
    assert!(good.check().is_ok());
    let refused = |op: AdamW<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(AdamW { learning_rate: -1.0, ..good }), "learning_rate");
    assert_eq!(refused(AdamW { learning_rate: f32::NAN, ..good }), "learning_rate");
    assert_eq!(refused(AdamW { beta1: 1.0, ..good }), "beta1");
    assert_eq!(refused(AdamW { beta2: -0.1, ..good }), "beta2");
    assert_eq!(refused(AdamW { epsilon: 0.0, ..good }), "epsilon");
    assert_eq!(refused(AdamW { weight_decay: f32::INFINITY, ..good }), "weight_decay");
    assert_eq!(refused(AdamW { bias_correction1: 0.0, ..good }), "bias_correction1");
    assert_eq!(refused(AdamW { bias_correction2: 1.5, ..good }), "bias_correction2");
    assert_eq!(refused(AdamW { gradient_scale: f32::NAN, ..good }), "gradient_scale");
    let (short, ids) = (Tensor::new(DType::F32, &[7]), Tensor::new(DType::I32, &[8]));
    assert_eq!(refused(AdamW { gradient: ids.view(), ..good }), "gradient");
    let (plain, view) = (Moment::Plain, state.master.view());
    let master = |master| Master::F32 { master, weight: None };
    let weight = |weight| Master::F32 { master: view, weight: Some(weight) };
    assert_eq!(refused(AdamW { master: master(short.view()), ..good }), "master");
    assert_eq!(refused(AdamW { moment1: plain(ids.view()), ..good }), "moment1");
    assert_eq!(refused(AdamW { moment2: plain(state.weight.as_ref().unwrap().view()), ..good }), "moment2");
    assert_eq!(refused(AdamW { master: weight(ids.view()), ..good }), "weight");
    assert_eq!(refused(AdamW { master: master(good.gradient), ..good }), "master");
    assert_eq!(refused(AdamW { moment2: good.moment1, ..good }), "moment2");
    assert_eq!(refused(AdamW { master: weight(view), ..good }), "weight");
    assert_eq!(refused(AdamW { master: weight(good.gradient), ..good }), "weight");
    assert!(AdamW { control: Some(control(1, 1.0, false).view()), ..good }.check().is_ok());
    assert_eq!(refused(AdamW { control: Some(view), ..good }), "control");
    assert_eq!(refused(AdamW { control: Some(Tensor::new(DType::I64, &[8]).view()), ..good }), "control");
}
