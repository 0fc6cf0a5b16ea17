//! The step: trajectories against a naive f64 reference, clipping, overflow, attribution, and equal bits for any
//! number of threads.

mod harness;

use harness::small_state::{PARAMETERS, groups, numel, sealed, shape};
use harness::{Rng, Tensor, bits, elements, runtime};
use scalert_runtime::optim::Optimizer;
use scalert_runtime::{
    DType, GroupDesc, Part, Runtime, RuntimeDesc, Scaler, ScalerDesc, SimdLevel, State, StateDesc, Status, StepDesc,
    StepResult, Stream,
};

fn read(state: &State, stream: &Stream, p: usize, part: Part) -> Vec<f64> {
    let copy = Tensor::new(DType::F32, &shape(p));
    state.read(stream, p as u32, part, copy.view()).unwrap();
    copy.values()
}

fn micro_batch(state: &State, stream: &Stream, gradient: impl Fn(usize) -> Tensor) {
    state.begin_micro().unwrap();
    for p in 0..PARAMETERS.len() {
        state.gradient_ready(stream, p as u32, gradient(p).view(), None).unwrap();
    }
    state.end_micro().unwrap();
}

fn result(state: &State) -> StepResult {
    state.step_result_wait().unwrap().0
}

/// One parameter in f64.
#[derive(Clone)]
struct Reference {
    master: Vec<f64>,
    moment1: Vec<f64>,
    moment2: Vec<f64>,
}

impl Reference {
    fn new(master: Vec<f64>) -> Reference {
        let zero = vec![0.0; master.len()];
        Reference { master, moment1: zero.clone(), moment2: zero }
    }

    fn update(&mut self, desc: &GroupDesc, step: i32, rate: f64, gradient: &[f64]) {
        let rate = rate * if desc.learning_rate_scale == 0.0 { 1.0 } else { f64::from(desc.learning_rate_scale) };
        let decay = f64::from(desc.weight_decay);
        for (i, &g) in gradient.iter().enumerate() {
            let (x, m, v) = (&mut self.master[i], &mut self.moment1[i], &mut self.moment2[i]);
            match desc.optimizer {
                Optimizer::AdamW => {
                    let (b1, b2) = (0.9f32.into(), f64::from(desc.beta2));
                    *m = b1 * *m + (1.0 - b1) * g;
                    *v = b2 * *v + (1.0 - b2) * g * g;
                    let (mhat, vhat) = (*m / (1.0 - f64::powi(b1, step)), *v / (1.0 - f64::powi(b2, step)));
                    *x -= rate * (mhat / (vhat.sqrt() + 1e-8) + decay * *x);
                }
                Optimizer::Sgd => {
                    let momentum = f64::from(desc.momentum);
                    let d = g + decay * *x;
                    *m = if step == 1 { d } else { momentum * *m + d };
                    *x -= rate * if desc.nesterov { d + momentum * *m } else { *m };
                    if momentum == 0.0 {
                        *m = 0.0;
                    }
                }
                Optimizer::Lion => {
                    let (b1, b2) = (f64::from(0.9f32), f64::from(0.99f32));
                    let c = b1 * *m + (1.0 - b1) * g;
                    *m = b2 * *m + (1.0 - b2) * g;
                    *x -= rate * (if c == 0.0 { 0.0 } else { c.signum() } + decay * *x);
                }
            }
        }
    }
}

#[test]
fn a_hundred_steps_follow_the_f64_reference() {
    let runtime = runtime(2);
    let (state, stream) = (sealed(&runtime), Stream::new(&runtime).unwrap());
    let mut rng = Rng(1);
    let mut references = Vec::new();
    for p in 0..PARAMETERS.len() {
        let start = Tensor::new(DType::F32, &shape(p)).fill(|_| rng.normal());
        state.write(&stream, p as u32, Part::Master, start.view()).unwrap();
        references.push(Reference::new(start.values()));
    }
    let start = references.clone();
    let (micros, loss_scale, max_norm) = (3, 1024.0f32, 6.0f32);
    let mut clipped = 0;
    for step in 1..=100 {
        let rate = 0.01 * (1.0 + f64::from(step % 7));
        let mut sums: Vec<Vec<f64>> = (0..PARAMETERS.len()).map(|p| vec![0.0; numel(p)]).collect();
        state.begin_step().unwrap();
        for micro in 0..micros {
            // A noisy bowl, of every dtype, scaled by the loss scale.
            let dtype = DType::FLOATS[(micro + step as usize) % 3];
            let gradients: Vec<Tensor> = (0..PARAMETERS.len())
                .map(|p| {
                    let x = &references[p].master;
                    Tensor::new(dtype, &shape(p)).fill(|i| (0.3 * x[i] + 0.2 * rng.normal()) * f64::from(loss_scale))
                })
                .collect();
            state.begin_micro().unwrap();
            for k in 0..PARAMETERS.len() {
                let p = (3 * k + step as usize) % PARAMETERS.len();
                state.gradient_ready(&stream, p as u32, gradients[p].view(), None).unwrap();
                sums[p].iter_mut().zip(gradients[p].values()).for_each(|(sum, g)| *sum += g);
            }
            state.end_micro().unwrap();
        }
        for (p, sum) in sums.iter().enumerate() {
            assert_close("gradient", &read(&state, &stream, p, Part::Gradient), sum, 1e-6, 1e-3);
        }
        let desc = StepDesc {
            learning_rate: rate as f32,
            max_norm,
            gradient_scale: 1.0 / micros as f32,
            loss_scale,
            ..Default::default()
        };
        state.step(&stream, &desc).unwrap();
        let unscale = f64::from(1.0 / micros as f32) / f64::from(loss_scale);
        let norm = sums.iter().flatten().map(|g| (g * unscale).powi(2)).sum::<f64>().sqrt();
        let clip = (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
        clipped += usize::from(clip < 1.0);
        let figures = result(&state);
        assert_eq!((figures.step, figures.skipped, figures.loss_scale), (step as u64, false, loss_scale));
        assert!((figures.gradient_norm - norm).abs() <= 1e-6 * norm, "{} {norm}", figures.gradient_norm);
        assert!((figures.clip_factor - clip).abs() <= 1e-6);
        for (p, reference) in references.iter_mut().enumerate() {
            let gradient: Vec<f64> = sums[p].iter().map(|g| g * unscale * clip).collect();
            let desc = groups()[PARAMETERS[p].0 as usize];
            reference.update(&desc, step, rate, &gradient);
            let what = format!("step {step} parameter {p}");
            let master = read(&state, &stream, p, Part::Master);
            assert_close(&what, &master, &reference.master, 1e-4, 1e-5);
            if desc.optimizer != Optimizer::Sgd || desc.momentum != 0.0 {
                assert_close(&what, &read(&state, &stream, p, Part::Moment1), &reference.moment1, 1e-4, 1e-6);
            }
            if desc.optimizer == Optimizer::AdamW {
                assert_close(&what, &read(&state, &stream, p, Part::Moment2), &reference.moment2, 1e-4, 1e-7);
            }
            // The weight is the master weight, rounded.
            let weight = elements(&state.acquire(p as u32, &stream).unwrap());
            state.release(p as u32, &stream).unwrap();
            let relative = [0.0, 1.0 / 256.0, 1.0 / 2048.0][desc.weight_dtype.map_or(1, |d| d as usize - 1)];
            assert_close(&what, &weight, &master, relative, 1e-7 * f64::from(relative > 0.0));
        }
    }
    assert!((10..=90).contains(&clipped), "clipped {clipped} times");
    for (p, reference) in references.iter().enumerate() {
        let moved = reference.master.iter().zip(&start[p].master).filter(|(a, b)| (*a - *b).abs() > 0.01).count();
        assert!(moved * 2 >= numel(p), "parameter {p} hardly moved");
    }
}

fn assert_close(what: &str, actual: &[f64], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= relative * e.abs() + absolute, "{what}, element {i}: {a}, not {e}");
    }
}

/// All that a state holds, as bits.
fn snapshot(state: &State, stream: &Stream) -> Vec<u64> {
    let mut all = Vec::new();
    for p in 0..state.parameter_count().unwrap() {
        let info = state.parameter_info(p).unwrap();
        for part in [Part::Master, Part::Moment1, Part::Moment2] {
            let copy = Tensor::new(DType::F32, &info.shape);
            match state.read(stream, p, part, copy.view()) {
                Ok(()) => all.extend(bits(&copy.values())),
                Err(error) => assert_eq!(error.status, Status::InvalidArgument),
            }
        }
        all.extend(bits(&elements(&state.acquire(p, stream).unwrap())));
        state.release(p, stream).unwrap();
    }
    all
}

#[test]
fn any_number_of_threads_and_any_level_give_the_same_bits() {
    let mut expected: Option<(Vec<u64>, Vec<u64>)> = None;
    for level in SimdLevel::ALL.into_iter().filter(|level| level.is_available()) {
        for threads in [1, 2, 4] {
            let runtime = Runtime::new(&RuntimeDesc { threads, simd: Some(level), ..Default::default() }).unwrap();
            let (state, stream) =
                (State::new(&runtime, &StateDesc::default()).unwrap(), Stream::new(&runtime).unwrap());
            let mut rng = Rng(9);
            let shapes = [[150i64, 333], [1, 70_000], [3, 5]];
            for (i, shape) in shapes.iter().enumerate() {
                state.add_group(&groups()[i]).unwrap();
                let name = std::ffi::CString::new(format!("{i}")).unwrap();
                state.add_parameter(i as u32, &name, shape).unwrap();
            }
            state.seal().unwrap();
            let mut figures = Vec::new();
            for step in 0..4 {
                state.begin_step().unwrap();
                for _ in 0..2 {
                    state.begin_micro().unwrap();
                    for (i, shape) in shapes.iter().enumerate() {
                        let shape = shape.map(|n| n as usize);
                        let gradient = Tensor::new(DType::BF16, &shape).fill(|_| rng.normal());
                        state.gradient_ready(&stream, i as u32, gradient.view(), None).unwrap();
                    }
                    state.end_micro().unwrap();
                }
                let desc = StepDesc { learning_rate: 0.01, max_norm: 1.0 + step as f32 * 300.0, ..Default::default() };
                state.step(&stream, &desc).unwrap();
                figures.extend([result(&state).gradient_norm.to_bits(), result(&state).clip_factor.to_bits()]);
            }
            let outcome = (snapshot(&state, &stream), figures);
            assert!(expected.get_or_insert_with(|| outcome.clone()) == &outcome, "{} {threads}", level.name());
        }
    }
}

#[test]
fn overflows_are_skipped_and_the_first_by_micro_batch_then_parameter_is_named() {
    let runtime = runtime(2);
    let (state, stream) = (sealed(&runtime), Stream::new(&runtime).unwrap());
    let scaler = Scaler::new(&runtime, &ScalerDesc { initial_scale: 4.0, ..Default::default() }).unwrap();
    let desc = StepDesc { learning_rate: 0.1, scaler: Some(&scaler), ..Default::default() };
    let ones = |p: usize| Tensor::new(DType::F16, &shape(p)).fill(|_| 1.0);
    state.begin_step().unwrap();
    micro_batch(&state, &stream, ones);
    state.step(&stream, &desc).unwrap();
    let before = snapshot(&state, &stream);
    // (micro-batch, parameter, value) of what is not finite, the order of arrival, and which is the first.
    let up: Vec<usize> = (0..PARAMETERS.len()).collect();
    let down: Vec<usize> = up.iter().rev().copied().collect();
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let cases = [
        (vec![(0, 2, inf)], &up, (0, 2)),
        (vec![(1, 0, nan), (0, 6, -inf), (0, 4, nan)], &up, (0, 4)),
        (vec![(1, 0, nan), (0, 6, -inf), (0, 4, nan)], &down, (0, 4)),
        (vec![(2, 6, inf), (2, 3, inf)], &down, (2, 3)),
        (vec![(2, 1, inf), (1, 6, inf)], &up, (1, 6)),
    ];
    for (k, (bad, order, first)) in cases.into_iter().enumerate() {
        state.begin_step().unwrap();
        for micro in 0..3 {
            state.begin_micro().unwrap();
            for &p in order {
                let mut gradient = ones(p);
                for (_, _, value) in bad.iter().filter(|b| (b.0, b.1) == (micro, p)) {
                    gradient.set(numel(p) - 1, *value);
                }
                state.gradient_ready(&stream, p as u32, gradient.view(), None).unwrap();
            }
            state.end_micro().unwrap();
        }
        state.step(&stream, &desc).unwrap();
        let (figures, verdict) = state.step_result_wait().unwrap();
        assert_eq!((figures.step, figures.skipped), (1, true), "a skipped step does not count");
        assert!(figures.gradient_norm.is_nan());
        assert_eq!((figures.overflow_micro, figures.overflow_parameter), (Some(first.0), Some(first.1)), "case {k}");
        assert_eq!(figures.overflow_rank, Some(0));
        assert!(snapshot(&state, &stream) == before, "a skipped step changed something");
        let scale = [4.0, 2.0, 1.0, 1.0, 1.0][k];
        assert_eq!(figures.loss_scale, scale);
        if k < 2 {
            assert_eq!(verdict, Ok(()));
        } else {
            let error = verdict.unwrap_err();
            assert_eq!(error.status, Status::LossScaleCollapsed);
            assert_eq!(
                error.message,
                format!(
                    "gradients overflow at the smallest loss scale, 1; the first is that of parameter {} 'layer.{}' in \
                     micro-batch {}",
                    first.1, first.1, first.0
                )
            );
        }
        assert_eq!(scaler.read_wait().unwrap().collapsed, k >= 2);
    }
    // A finite step goes on from there, with the scale of the device.
    state.begin_step().unwrap();
    micro_batch(&state, &stream, ones);
    state.step(&stream, &desc).unwrap();
    let (figures, verdict) = state.step_result_wait().unwrap();
    assert_eq!((figures.step, figures.skipped, figures.overflow_parameter, verdict), (2, false, None, Ok(())));
    assert!(snapshot(&state, &stream) != before);
}

#[test]
fn sums_that_overflow_are_skipped_and_attributed_to_the_last_micro_batch() {
    let runtime = runtime(1);
    let (state, stream) = (sealed(&runtime), Stream::new(&runtime).unwrap());
    let before = snapshot(&state, &stream);
    state.begin_step().unwrap();
    for _ in 0..2 {
        micro_batch(&state, &stream, |p| {
            Tensor::new(DType::F32, &shape(p)).fill(|_| if p == 2 || p == 6 { 3e38 } else { 1.0 })
        });
    }
    let desc = StepDesc { learning_rate: 0.1, ..Default::default() };
    state.step(&stream, &desc).unwrap();
    let figures = result(&state);
    assert_eq!((figures.skipped, figures.overflow_micro, figures.overflow_parameter), (true, Some(1), Some(2)));
    assert_eq!(snapshot(&state, &stream), before);

    // Finite sums that overflow when they are unscaled: the largest is to blame. Clipping saves them.
    for (max_norm, skipped) in [(0.0, true), (1.0, false)] {
        state.begin_step().unwrap();
        micro_batch(&state, &stream, |p| Tensor::new(DType::F32, &shape(p)).fill(|_| if p == 4 { 1e38 } else { 1.0 }));
        state
            .step(&stream, &StepDesc { learning_rate: 0.1, max_norm, loss_scale: 0.01, ..Default::default() })
            .unwrap();
        let figures = result(&state);
        assert_eq!((figures.skipped, figures.overflow_parameter), (skipped, skipped.then_some(4)));
    }
    assert!(read(&state, &stream, 4, Part::Master).iter().all(|x| x.is_finite() && *x != 0.0));
}

#[test]
fn a_step_without_micro_batches_has_gradients_of_zero() {
    let runtime = runtime(1);
    let (state, stream) = (sealed(&runtime), Stream::new(&runtime).unwrap());
    let desc = StepDesc { learning_rate: 0.1, max_norm: 1.0, ..Default::default() };
    // Gradients of an abandoned step and of an earlier one must not come back.
    state.begin_step().unwrap();
    micro_batch(&state, &stream, |p| Tensor::new(DType::F32, &shape(p)).fill(|_| f64::NAN));
    state.abandon_step().unwrap();
    let before = snapshot(&state, &stream);
    state.begin_step().unwrap();
    state.step(&stream, &desc).unwrap();
    let figures = result(&state);
    assert_eq!((figures.step, figures.gradient_norm, figures.clip_factor, figures.skipped), (1, 0.0, 1.0, false));
    assert_eq!(snapshot(&state, &stream), before, "weights and moments of zero stay zero");
}

#[test]
fn restored_moments_and_step_number_continue_with_the_same_bits() {
    let runtime = runtime(1);
    let stream = Stream::new(&runtime).unwrap();
    let gradient = |step: u64, p: usize| {
        let mut rng = Rng(step * 100 + p as u64);
        Tensor::new(DType::BF16, &shape(p)).fill(|_| rng.normal())
    };
    let take = |state: &State, steps: std::ops::Range<u64>| {
        for step in steps {
            state.begin_step().unwrap();
            micro_batch(state, &stream, |p| gradient(step, p));
            state.step(&stream, &StepDesc { learning_rate: 0.01, ..Default::default() }).unwrap();
        }
    };
    let straight = sealed(&runtime);
    take(&straight, 0..6);
    let (first, second) = (sealed(&runtime), sealed(&runtime));
    take(&first, 0..3);
    for p in 0..PARAMETERS.len() {
        for part in [Part::Master, Part::Moment1, Part::Moment2] {
            let copy = Tensor::new(DType::F32, &shape(p));
            if first.read(&stream, p as u32, part, copy.view()).is_ok() {
                second.write(&stream, p as u32, part, copy.view()).unwrap();
            }
        }
    }
    second.set_step(result(&first).step).unwrap();
    assert!(snapshot(&second, &stream) == snapshot(&first, &stream));
    take(&second, 3..6);
    assert!(snapshot(&second, &stream) == snapshot(&straight, &stream));
    assert_eq!(result(&second).step, 6);
}
