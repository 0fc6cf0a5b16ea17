//! The loss scale: histories against the definition, on every target.

use crate::harness::*;
use crate::step_control::words;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::loss_scale::{LossScale, LossScaleState, reference};

fn state(scale: f32) -> Tensor {
    words(&[scale.to_bits().into(), 0, 0])
}

fn read(state: &Tensor) -> LossScaleState {
    let bits: [u64; LossScaleState::WORDS] = state.bits().try_into().unwrap();
    // SAFETY: a state is plain words.
    unsafe { std::mem::transmute(bits) }
}

#[test]
fn histories_are_those_of_the_definition() {
    let mut rng = Rng(1);
    for (growth_interval, hysteresis, initial) in [(1, 1, 4.0f32), (3, 1, 2.0), (2, 3, 256.0), (5, 2, 64.0)] {
        let rules = reference::Rules {
            growth_factor: 2.0,
            backoff_factor: 0.25,
            minimum: 2.0,
            maximum: 256.0,
            growth_interval,
            hysteresis,
        };
        let history: Vec<bool> = (0..60).map(|_| rng.below(3) == 0).collect();
        for target in targets() {
            let (state, nonfinite) = (state(initial), [words(&[0]), words(&[-7])]);
            for i in 0..history.len() {
                let before = read(&state).scale;
                let op = LossScale {
                    growth_factor: 2.0,
                    backoff_factor: 0.25,
                    minimum: 2.0,
                    maximum: 256.0,
                    growth_interval: growth_interval as u32,
                    hysteresis: hysteresis as u32,
                    nonfinite: nonfinite[usize::from(history[i])].view(),
                    state: state.view(),
                };
                run_with(&op, target, 1);
                let (after, past) = (read(&state), &history[..=i]);
                assert_eq!(f64::from(after.scale), reference::scale(rules, initial.into(), past), "{}", target.name());
                assert_eq!(after.overflows, past.iter().filter(|o| **o).count() as u64);
                assert_eq!(after.overflows_in_a_row as usize, past.iter().rev().take_while(|o| **o).count());
                assert_eq!(after.collapsed, u32::from(history[i] && before == 2.0));
            }
        }
    }
}

#[test]
fn products_are_rounded_alike() {
    let mut rng = Rng(2);
    for _ in 0..20 {
        let (growth, backoff, initial) = (1.0 + rng.uniform() as f32, rng.uniform() as f32, rng.uniform() as f32 * 1e3);
        run_identically(|target, threads| {
            let state = state(initial);
            for overflow in [0, 1, 1, 0, 0] {
                let nonfinite = words(&[overflow]);
                let op = LossScale {
                    growth_factor: growth.max(1.1),
                    backoff_factor: backoff.max(0.1),
                    minimum: 1e-30,
                    maximum: 1e30,
                    growth_interval: 1,
                    hysteresis: 1,
                    nonfinite: nonfinite.view(),
                    state: state.view(),
                };
                run_with(&op, target, threads);
            }
            vec![state]
        });
    }
}

#[test]
fn bad_arguments_are_named() {
    let (state, nonfinite) = (state(1.0), words(&[0]));
    let good = LossScale {
        growth_factor: 2.0,
        backoff_factor: 0.5,
        minimum: 1.0,
        maximum: 2.0,
        growth_interval: 1,
        hysteresis: 1,
        nonfinite: nonfinite.view(),
        state: state.view(),
    };
    assert!(good.check().is_ok());
    let refused = |op: LossScale<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(LossScale { growth_factor: 1.0, ..good }), "growth_factor");
    assert_eq!(refused(LossScale { backoff_factor: 1.0, ..good }), "backoff_factor");
    assert_eq!(refused(LossScale { minimum: 0.0, ..good }), "minimum");
    assert_eq!(refused(LossScale { maximum: 0.5, ..good }), "maximum");
    assert_eq!(refused(LossScale { nonfinite: state.view(), ..good }), "nonfinite");
    assert_eq!(refused(LossScale { nonfinite: Tensor::new(DType::F32, &[1]).view(), ..good }), "nonfinite");
    assert_eq!(refused(LossScale { state: nonfinite.view(), ..good }), "state");
}
