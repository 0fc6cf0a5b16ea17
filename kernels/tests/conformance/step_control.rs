//! The step's decisions: the same bits on every target, figures against plain arithmetic, and what skips a step.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::exact_sum::{Accumulator, WORDS};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::loss_scale::LossScaleState;
use scalert_kernels::ops::step_control::{Control, Restart, StepControl, overflow_mark, overflow_of, reference};

pub fn words(values: &[i64]) -> Tensor {
    let mut tensor = Tensor::new(DType::I64, &[values.len()]);
    tensor.set_words(values);
    tensor
}

fn control_words(control: Control) -> Tensor {
    // SAFETY: a control block is plain words.
    words(&unsafe { std::mem::transmute::<Control, [i64; Control::WORDS]>(control) })
}

pub fn control_of(tensor: &Tensor) -> Control {
    let bits: [u64; Control::WORDS] = tensor.bits().try_into().unwrap();
    // SAFETY: a control block is plain words.
    unsafe { std::mem::transmute(bits) }
}

/// The control block after a step with these figures, on all targets.
fn step(
    squares: &Accumulator,
    mark: u64,
    scaler: Option<f32>,
    before: Control,
    change: impl Fn(&mut StepControl<'_>),
) -> Control {
    step_of_ranks(squares, &[mark], scaler, before, change)
}

/// The same with the mark of each rank.
fn step_of_ranks(
    squares: &Accumulator,
    marks: &[u64],
    scaler: Option<f32>,
    before: Control,
    change: impl Fn(&mut StepControl<'_>),
) -> Control {
    let sum = words(&squares.words);
    let overflow = words(&marks.iter().map(|mark| *mark as i64).collect::<Vec<_>>());
    let state = scaler.map(|scale| words(&[i64::from(scale.to_bits()) | 17 << 32, 3, 0]));
    let outputs = run_identically(|target, threads| {
        let control = control_words(before);
        let mut op = StepControl {
            square_sum: sum.view(),
            overflow: overflow.view(),
            loss_scale_state: state.as_ref().map(Tensor::view),
            minimum_loss_scale: 2.0,
            loss_scale: 1.0,
            gradient_scale: 1.0,
            max_norm: 0.0,
            restart: Restart::default(),
            control: control.view(),
        };
        change(&mut op);
        run_with(&op, target, threads);
        vec![control]
    });
    control_of(&outputs[0])
}

fn squares_of(values: &[f64]) -> Accumulator {
    let mut sum = Accumulator::ZERO;
    values.iter().for_each(|x| sum.add(x * x));
    sum.carry();
    sum
}

#[test]
fn figures_are_those_of_plain_arithmetic() {
    let mut rng = Rng(1);
    for (gradient_scale, loss_scale, max_norm) in
        [(1.0f32, 1.0f32, 0.0f32), (0.25, 1.0, 1.0), (1.0, 65536.0, 1e-3), (0.3, 0.7, 1e9), (1e-20, 1e10, 1.0)]
    {
        for n in [0, 1, 1000] {
            let gradients: Vec<f64> = (0..n).map(|_| rng.normal() * 3.0).collect();
            let before = Control { step: 41, ..Control::default() };
            let scaler = (loss_scale == 65536.0).then_some(loss_scale);
            let got = step(&squares_of(&gradients), 0, scaler, before, |op| {
                op.gradient_scale = gradient_scale;
                op.loss_scale = if scaler.is_some() { 3.0 } else { loss_scale };
                op.max_norm = max_norm;
            });
            let (norm, clip, factor) =
                reference::figures(&gradients, gradient_scale.into(), loss_scale.into(), max_norm.into());
            let near =
                |a: f64, b: f64, tolerance: f64| assert!((a - b).abs() <= tolerance * b.abs(), "{a:e}, not {b:e}");
            near(got.gradient_norm, norm, 1e-14);
            near(got.clip_factor, clip, 1e-14);
            near(got.gradient_scale.into(), factor, 6e-8);
            let expected = Control {
                step: 42,
                loss_scale,
                gradient_norm: got.gradient_norm,
                clip_factor: got.clip_factor,
                gradient_scale: got.gradient_scale,
                ..Control::default()
            };
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn sums_of_any_kind_are_rounded_as_on_the_host() {
    let mut rng = Rng(2);
    for case in 0..60 {
        // Words that nobody has carried, of either sign, and sums around ties.
        let mut sum = Accumulator::ZERO;
        let exponents = [(0u64, 2046u64), (1000, 60), (0, 3), (2040, 6)][case % 4];
        for _ in 0..1 + rng.below(20) {
            let exponent = exponents.0 + rng.next_u64() % exponents.1;
            let mantissa = if rng.below(2) == 0 { 0 } else { rng.next_u64() & ((1 << 52) - 1) };
            sum.add(f64::from_bits((rng.next_u64() & 1) << 63 & ((case as u64 % 3) << 62) | exponent << 52 | mantissa));
        }
        let got = step(&sum, 0, None, Control::default(), |_| {});
        let norm = sum.sum().sqrt();
        if norm > f64::from(f32::MAX) {
            assert_eq!((got.skipped, got.search), (1, 1));
        } else {
            assert!(
                got.gradient_norm.to_bits() == norm.to_bits() || norm.is_nan(),
                "{:e}, not {norm:e}",
                got.gradient_norm
            );
        }
    }
}

#[test]
fn overflows_skip_the_step() {
    let before = Control { step: 5, restart: 2, search: 1, collapsed: 1, largest: 9, ..Control::default() };
    let finite = squares_of(&[3.0, 4.0]);
    let mut nonfinite = finite;
    nonfinite.add_nonfinite(2);
    let large = squares_of(&[f64::from(f32::MAX), f64::from(f32::MAX)]);
    let mark = overflow_mark(3, 7);
    for (squares, mark, scaler, max_norm, skipped, search, collapsed) in [
        (finite, 0, None, 0.0, false, false, false),
        (finite, mark, None, 0.0, true, false, false),
        (nonfinite, mark, Some(4.0), 0.0, true, false, false),
        (nonfinite, 0, Some(2.0), 1.0, true, true, true),
        (large, 0, None, 0.0, true, true, false),
        (large, 0, None, 1.0, false, false, false),
        (finite, mark, Some(2.0), 0.0, true, false, true),
        (finite, 0, Some(2.0), 0.0, false, false, false),
    ] {
        let got = step(&squares, mark, scaler, before, |op| op.max_norm = max_norm);
        assert_eq!((got.step, got.restart), (if skipped { 5 } else { 6 }, 2));
        assert_eq!((got.skipped, got.search, got.collapsed), (skipped.into(), search.into(), collapsed.into()));
        assert_eq!((got.overflow, got.largest), (mark, 0));
        assert_eq!(got.loss_scale, scaler.unwrap_or(1.0));
        if skipped {
            assert_eq!((got.gradient_norm.to_bits(), got.clip_factor), (f64::NAN.to_bits(), 1.0));
        }
    }
    let last = step(&finite, 0, None, Control { step: u64::MAX, ..before }, |_| {});
    assert_eq!(last.step, u64::MAX);
}

#[test]
fn a_restart_is_taken_once() {
    let squares = squares_of(&[1.0]);
    for (restart, before, expected) in [
        (Restart { number: 1, step: 100 }, (0, 7), (1, 101)),
        (Restart { number: 1, step: 100 }, (1, 101), (1, 102)),
        (Restart { number: 3, step: 0 }, (1, 101), (3, 1)),
        (Restart::default(), (3, 1), (3, 2)),
    ] {
        let before = Control { restart: before.0, step: before.1, ..Control::default() };
        let got = step(&squares, 0, None, before, |op| op.restart = restart);
        assert_eq!((got.restart, got.step), expected);
    }
}

#[test]
fn marks_order_by_micro_batch_then_parameter() {
    let places = [(0, 0), (0, 1), (0, u32::MAX - 1), (1, 0), (u32::MAX - 2, 5)];
    for (earlier, later) in places.iter().zip(&places[1..]) {
        assert!(overflow_mark(earlier.0, earlier.1) > overflow_mark(later.0, later.1));
    }
    for place in places {
        assert_eq!(overflow_of(overflow_mark(place.0, place.1)), Some(place));
    }
    assert_eq!(overflow_of(0), None);
}

#[test]
fn bad_arguments_are_named() {
    let (sum, overflow, control) = (words(&[0; WORDS]), words(&[0]), words(&[0; Control::WORDS]));
    let state = words(&[0; LossScaleState::WORDS]);
    let good = StepControl {
        square_sum: sum.view(),
        overflow: overflow.view(),
        loss_scale_state: Some(state.view()),
        minimum_loss_scale: 1.0,
        loss_scale: 1.0,
        gradient_scale: 1.0,
        max_norm: 1.0,
        restart: Restart::default(),
        control: control.view(),
    };
    assert!(good.check().is_ok());
    let refused = |op: StepControl<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(StepControl { square_sum: control.view(), ..good }), "square_sum");
    assert_eq!(refused(StepControl { overflow: Tensor::new(DType::I64, &[0]).view(), ..good }), "overflow");
    assert_eq!(refused(StepControl { overflow: Tensor::new(DType::F32, &[1]).view(), ..good }), "overflow");
    assert_eq!(refused(StepControl { overflow: control.view(), ..good }), "control", "they overlap");
    assert_eq!(refused(StepControl { loss_scale_state: Some(control.view()), ..good }), "loss_scale_state");
    assert_eq!(refused(StepControl { gradient_scale: f32::NAN, ..good }), "gradient_scale");
    assert_eq!(refused(StepControl { max_norm: -1.0, ..good }), "max_norm");
    assert_eq!(refused(StepControl { loss_scale: 0.0, ..good }), "loss_scale");
    assert_eq!(refused(StepControl { control: state.view(), ..good }), "control");
}

#[test]
fn of_the_marks_of_ranks_the_first_counts() {
    let (early, late) = (overflow_mark(0, 9), overflow_mark(1, 2));
    for (marks, first, rank) in [
        (&[0u64, late, early, early][..], early, 2),
        (&[late, late], late, 0),
        (&[0, 0, 0], 0, 0),
        (&[0, 0, late], late, 2),
    ] {
        let got = step_of_ranks(&squares_of(&[3.0]), marks, None, Control::default(), |_| {});
        let unscaled = 3.0 / marks.len() as f64;
        assert!(if got.skipped == 1 { got.gradient_norm.is_nan() } else { got.gradient_norm == unscaled }, "{got:?}");
        assert_eq!((got.overflow, got.overflow_rank, got.skipped), (first, rank, i64::from(first != 0)), "{marks:x?}");
    }
}
