//! What the optimizers' tests share: all layouts and dtypes against a scalar formula, bit by bit, and trajectories
//! against f64.

use crate::harness::*;
use scalert_kernels::dtype::{DType, bf16, bf16_bits_nearest_away};
use scalert_kernels::ops::optimizer::Master;
use scalert_kernels::ops::step_control::Control;

/// The tensors of one optimizer call.
#[derive(Clone)]
pub struct State {
    pub gradient: Tensor,
    pub master: Tensor,
    pub moments: Vec<Tensor>,
    pub weight: Option<Tensor>,
}

impl State {
    /// Master and weight.
    pub fn master(&self) -> Master<'_> {
        Master::F32 { master: self.master.view(), weight: self.weight.as_ref().map(Tensor::view) }
    }
    /// Contiguous, of normal values; moments are not negative.
    pub fn normal(dtype: DType, n: usize, moments: usize) -> State {
        let mut rng = Rng(7);
        State {
            gradient: Tensor::new(dtype, &[n]).normal(&mut rng, 1.0),
            master: Tensor::new(DType::F32, &[n]).normal(&mut rng, 1.0),
            moments: (0..moments).map(|_| Tensor::new(DType::F32, &[n]).fill(|_| rng.uniform())).collect(),
            weight: Some(Tensor::new(DType::BF16, &[n])),
        }
    }
}

/// Runs `apply` on every dtype and layout, on normal and hostile values, at every level with 1, 2 and 4 threads, and
/// requires the bits of `scalar`: (gradient, master, moments) to the new master and moments.
pub fn assert_bits<const N: usize>(
    apply: impl Fn(&State, Target, usize),
    scalar: impl Fn(f32, f32, [f32; N]) -> (f32, [f32; N]),
) {
    let mut rng = Rng(3);
    for (shape, padding, offset) in LAYOUTS {
        for dtype in DType::FLOATS {
            for weight in [None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)] {
                let adversarial = rng.below(3) > 0;
                let mut fill = |dtype, padding| {
                    let tensor = Tensor::with_layout(dtype, shape, padding, offset);
                    tensor.fill(|_| if adversarial { hostile(&mut rng) } else { rng.normal() })
                };
                let before = State {
                    gradient: fill(dtype, 0),
                    master: fill(DType::F32, padding),
                    moments: (0..N).map(|_| fill(DType::F32, padding)).collect(),
                    weight: weight.map(|dtype| Tensor::with_layout(dtype, shape, padding + 1, offset)),
                };
                let outputs = run_identically(|level, threads| {
                    let state = before.clone();
                    apply(&state, level, threads);
                    let mut outputs = vec![state.master];
                    outputs.extend(state.moments);
                    outputs.extend(state.weight);
                    outputs
                });
                let mut expected = vec![before.master.clone()];
                expected.extend(before.moments.clone());
                expected.extend(before.weight.clone());
                for i in 0..before.master.numel() {
                    let moments = std::array::from_fn(|k| before.moments[k].get(i) as f32);
                    let (master, moments) = scalar(before.gradient.get(i) as f32, before.master.get(i) as f32, moments);
                    expected[0].set(i, master.into());
                    (0..N).for_each(|k| expected[k + 1].set(i, moments[k].into()));
                    match weight {
                        Some(DType::BF16) => {
                            let rounded = bf16::from_bits(bf16_bits_nearest_away(master.to_bits()));
                            expected[N + 1].set(i, rounded.into());
                        }
                        Some(_) => expected[N + 1].set(i, master.into()),
                        None => {}
                    }
                }
                for (k, (output, expected)) in outputs.iter().zip(&expected).enumerate() {
                    assert_same(&format!("{dtype} {shape:?} weight {weight:?}: output {k}"), output, expected);
                }
            }
        }
    }
}

/// A control block that says this.
pub fn control(step: u64, gradient_scale: f32, skipped: bool) -> Tensor {
    let control = Control { step, gradient_scale, skipped: skipped.into(), ..Control::default() };
    // SAFETY: a control block is plain words.
    let words = unsafe { std::mem::transmute::<Control, [i64; Control::WORDS]>(control) };
    let mut tensor = Tensor::new(DType::I64, &[Control::WORDS]);
    tensor.set_words(&words);
    tensor
}

/// Requires that `with(control)` gives the bits of `plain(step, gradient_scale)` when the control block says this step
/// and factor, whatever the call says, and changes nothing when the block says that the step is skipped.
pub fn assert_controlled(
    moments: usize,
    plain: impl Fn(&State, u64, f32, Target),
    with: impl Fn(&State, &Tensor, Target),
) {
    let outputs = |state: State| {
        let mut outputs = vec![state.master];
        outputs.extend(state.moments);
        outputs.extend(state.weight);
        outputs
    };
    for (step, scale) in [(1, 1.0), (2, 0.3), (1000, 1e-4), (12_345_678_901, 0.0)] {
        let state = State::normal(DType::BF16, 1000, moments);
        let expected = state.clone();
        plain(&expected, step, scale, levels()[0].into());
        let expected = outputs(expected);
        for target in targets() {
            for skipped in [false, true] {
                let after = state.clone();
                with(&after, &control(step, scale, skipped), target);
                let before = outputs(state.clone());
                let wanted = if skipped { &before } else { &expected };
                for (k, (output, wanted)) in outputs(after).iter().zip(wanted).enumerate() {
                    assert_same(&format!("{} step {step}: output {k}", target.name()), output, wanted);
                }
            }
        }
    }
}

/// 100 steps on noisy quadratic bowls of very different curvature, by `apply(step, state)` in f32 and by
/// `reference(step, gradient, parameters, moments)` in f64: parameters must agree within `relative` and `absolute`.
pub fn assert_trajectory(
    moments: usize,
    apply: impl Fn(i32, &State),
    mut reference: impl FnMut(i32, &[f64], &mut [f64], &mut [Vec<f64>]),
    relative: f64,
    absolute: f64,
) {
    let n = 500;
    let mut rng = Rng(11);
    let mut state = State {
        gradient: Tensor::new(DType::F32, &[n]).fill(|_| 0.0),
        master: Tensor::new(DType::F32, &[n]).normal(&mut rng, 1.0),
        moments: vec![Tensor::new(DType::F32, &[n]).fill(|_| 0.0); moments],
        weight: Some(Tensor::new(DType::BF16, &[n])),
    };
    let start = state.master.values();
    let mut p = start.clone();
    let mut m = vec![vec![0.0; n]; moments];
    for t in 1..=100 {
        for (i, p) in p.iter().enumerate() {
            let curvature = 10f64.powi((i % 5) as i32 - 3);
            state.gradient.set(i, curvature * p + 0.1 * rng.normal());
        }
        apply(t, &state);
        reference(t, &state.gradient.values(), &mut p, &mut m);
        assert_close(&format!("step {t}"), &state.master, &p, relative, absolute);
        for (tensor, m) in state.moments.iter().zip(&m) {
            assert_close(&format!("moment at step {t}"), tensor, m, 1e-5, 1e-6);
        }
    }
    let moved = p.iter().zip(&start).filter(|(p, s)| (*p - *s).abs() > 10.0 * (relative * p.abs() + absolute)).count();
    assert!(moved > n / 2, "only {moved} parameters moved far enough to tell");
}
