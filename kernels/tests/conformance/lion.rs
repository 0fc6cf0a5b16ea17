//! Lion: the bits of the contract's formula, and 100 steps of the paper's algorithm.

use crate::harness::*;
use crate::optimizer::{State, assert_bits, assert_controlled, assert_trajectory};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::lion::{Lion, reference};
use scalert_kernels::ops::optimizer::{Master, Moment, Random};

const RATE: f32 = 1e-3;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;

fn lion(state: &State, weight_decay: f32) -> Lion<'_> {
    Lion {
        gradient: state.gradient.view(),
        gradient_scale: 1.0,
        learning_rate: RATE,
        beta1: BETA1,
        beta2: BETA2,
        weight_decay,
        master: state.master(),
        moment: Moment::Plain(state.moments[0].view()),
        random: None,
        control: None,
    }
}

#[test]
fn bits_are_those_of_the_formula() {
    for (scale, weight_decay) in [(1.0, 0.1), (0.01, 0.0)] {
        let decay = (f64::from(RATE) * f64::from(weight_decay)) as f32;
        assert_bits(
            |state, level, threads| {
                run_with(&Lion { gradient_scale: scale, ..lion(state, weight_decay) }, level, threads);
            },
            |gradient, master, [m]| {
                let g = gradient * scale;
                let c = BETA1.mul_add(m, (1.0 - f64::from(BETA1)) as f32 * g);
                let m = BETA2.mul_add(m, (1.0 - f64::from(BETA2)) as f32 * g);
                let sign = if c == 0.0 || c.is_nan() { c } else { c.signum() };
                (master - decay.mul_add(master, RATE * sign), [m])
            },
        );
    }
}

#[test]
fn a_trajectory_is_that_of_the_paper() {
    for weight_decay in [0.0f32, 0.1] {
        let hyper = reference::Hyper {
            learning_rate: RATE.into(),
            beta1: BETA1.into(),
            beta2: BETA2.into(),
            weight_decay: weight_decay.into(),
        };
        assert_trajectory(
            1,
            |_, state| run_with(&lion(state, weight_decay), levels()[0], 1),
            |_, g, p, m| reference::lion(hyper, g, p, &mut m[0]),
            5e-6,
            1e-6,
        );
    }
}

#[test]
fn a_control_block_decides() {
    assert_controlled(
        1,
        |state, _, gradient_scale, target| run_with(&Lion { gradient_scale, ..lion(state, 0.1) }, target, 1),
        |state, control, target| {
            let op = Lion { gradient_scale: 7.0, control: Some(control.view()), ..lion(state, 0.1) };
            run_with(&op, target, 1);
        },
    );
}

#[test]
fn bad_arguments_are_named() {
    let state = State::normal(DType::BF16, 8, 1);
    let good = lion(&state, 0.1);
    assert!(good.check().is_ok());
    let refused = |op: Lion<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Lion { learning_rate: -1.0, ..good }), "learning_rate");
    assert_eq!(refused(Lion { beta1: 1.0, ..good }), "beta1");
    assert_eq!(refused(Lion { beta2: f32::NAN, ..good }), "beta2");
    assert_eq!(refused(Lion { weight_decay: -0.1, ..good }), "weight_decay");
    let master = state.master.view();
    assert_eq!(refused(Lion { moment: Moment::Plain(master), ..good }), "moment");
    assert_eq!(
        refused(Lion { moment: Moment::Plain(good.gradient), random: Some(Random::default()), ..good }),
        "moment"
    );
    assert_eq!(refused(Lion { master: Master::F32 { master, weight: Some(good.gradient) }, ..good }), "weight");
}
