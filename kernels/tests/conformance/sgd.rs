//! SGD: the bits of the contract's formula, and 100 steps of PyTorch's.

use crate::harness::*;
use crate::optimizer::{State, assert_bits, assert_controlled, assert_trajectory};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::optimizer::{Master, Moment};
use scalert_kernels::ops::sgd::{Sgd, reference};

const RATE: f32 = 0.02;

fn sgd(state: &State, momentum: f32, dampening: f32, nesterov: bool, weight_decay: f32, t: i32) -> Sgd<'_> {
    Sgd {
        gradient: state.gradient.view(),
        gradient_scale: 1.0,
        learning_rate: RATE,
        momentum,
        dampening,
        nesterov,
        weight_decay,
        first_step: t == 1,
        master: state.master(),
        momentum_buffer: state.moments.first().map(|m| Moment::Plain(m.view())),
        random: None,
        control: None,
    }
}

/// (momentum, dampening, nesterov, weight decay).
const CASES: [(f32, f32, bool, f32); 5] = [
    (0.0, 0.0, false, 0.0),
    (0.0, 0.0, false, 0.01),
    (0.9, 0.0, false, 0.0),
    (0.9, 0.3, false, 0.1),
    (0.8, 0.0, true, 0.1),
];

fn decayed(weight_decay: f32, g: f32, p: f32) -> f32 {
    if weight_decay == 0.0 { g } else { weight_decay.mul_add(p, g) }
}

#[test]
fn bits_are_those_of_the_formula() {
    for (momentum, dampening, nesterov, weight_decay) in CASES {
        if momentum == 0.0 {
            assert_bits::<0>(
                |state, level, threads| run_with(&sgd(state, 0.0, 0.0, false, weight_decay, 2), level, threads),
                |g, p, []| ((-RATE).mul_add(decayed(weight_decay, g, p), p), []),
            );
            continue;
        }
        for first in [true, false] {
            let keep = (1.0 - f64::from(dampening)) as f32;
            assert_bits::<1>(
                |state, level, threads| {
                    let op = sgd(state, momentum, dampening, nesterov, weight_decay, if first { 1 } else { 2 });
                    run_with(&Sgd { gradient_scale: 0.3, ..op }, level, threads);
                },
                |g, p, [b]| {
                    let d = decayed(weight_decay, g * 0.3, p);
                    let b = if first { d } else { momentum.mul_add(b, keep * d) };
                    let u = if nesterov { momentum.mul_add(b, d) } else { b };
                    ((-RATE).mul_add(u, p), [b])
                },
            );
        }
    }
}

#[test]
fn a_trajectory_is_that_of_pytorch() {
    for (momentum, dampening, nesterov, weight_decay) in CASES {
        let hyper = reference::Hyper {
            learning_rate: RATE.into(),
            momentum: momentum.into(),
            dampening: dampening.into(),
            nesterov,
            weight_decay: weight_decay.into(),
        };
        let mut none = vec![0.0; 500];
        assert_trajectory(
            usize::from(momentum != 0.0),
            |t, state| run_with(&sgd(state, momentum, dampening, nesterov, weight_decay, t), levels()[0], 1),
            |t, g, p, m| reference::sgd(hyper, t, g, p, m.first_mut().unwrap_or(&mut none)),
            2e-6,
            2e-6,
        );
    }
}

#[test]
fn a_control_block_decides() {
    for momentum in [0.0, 0.9] {
        let nesterov = momentum > 0.0;
        assert_controlled(
            usize::from(momentum > 0.0),
            |state, step, gradient_scale, target| {
                let op = Sgd { gradient_scale, first_step: step == 1, ..sgd(state, momentum, 0.0, nesterov, 0.1, 1) };
                run_with(&op, target, 1);
            },
            |state, control, target| {
                // Not the first step, says the call.
                let op = Sgd {
                    gradient_scale: 7.0,
                    control: Some(control.view()),
                    ..sgd(state, momentum, 0.0, nesterov, 0.1, 2)
                };
                run_with(&op, target, 1);
            },
        );
    }
}

#[test]
fn bad_arguments_are_named() {
    let state = State::normal(DType::F32, 8, 1);
    let good = sgd(&state, 0.9, 0.0, true, 0.1, 1);
    assert!(good.check().is_ok());
    assert!(Sgd { momentum: 0.0, nesterov: false, momentum_buffer: None, ..good }.check().is_ok());
    let refused = |op: Sgd<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Sgd { learning_rate: f32::INFINITY, ..good }), "learning_rate");
    assert_eq!(refused(Sgd { momentum: -0.9, ..good }), "momentum");
    assert_eq!(refused(Sgd { dampening: 1.0, ..good }), "dampening");
    assert_eq!(refused(Sgd { dampening: 0.5, ..good }), "nesterov");
    assert_eq!(refused(Sgd { weight_decay: -1.0, ..good }), "weight_decay");
    assert_eq!(refused(Sgd { momentum_buffer: None, ..good }), "momentum_buffer");
    assert_eq!(refused(Sgd { momentum: 0.0, nesterov: false, ..good }), "momentum_buffer");
    let master = state.master.view();
    assert_eq!(refused(Sgd { momentum_buffer: Some(Moment::Plain(master)), ..good }), "momentum_buffer");
    let narrow = Master::F32 { master: state.weight.as_ref().unwrap().view(), weight: None };
    assert_eq!(refused(Sgd { master: narrow, ..good }), "master");
    assert_eq!(refused(Sgd { master: Master::F32 { master, weight: Some(good.gradient) }, ..good }), "weight");
}
