//! The optimizers over state in every format: the bits of f32 state, stored as each format's oracle says.

use crate::harness::*;
use crate::optimizer::control;
use scalert_kernels::dtype::{DType, bf16_bits_nearest_away};
use scalert_kernels::dynamic_map::{BLOCK, DynamicMap, Sign};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::adamw::AdamW;
use scalert_kernels::ops::blockwise::{Dequantize, Quantize};
use scalert_kernels::ops::cast::reference::stochastic;
use scalert_kernels::ops::lion::Lion;
use scalert_kernels::ops::optimizer::{Master, Moment, Random};
use scalert_kernels::ops::sgd::Sgd;
use scalert_kernels::philox::Key;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Optimizer {
    AdamW,
    Lion,
    Momentum,
    Sgd,
}
const OPTIMIZERS: [Optimizer; 4] = [Optimizer::AdamW, Optimizer::Lion, Optimizer::Momentum, Optimizer::Sgd];

impl Optimizer {
    fn moments(self) -> usize {
        [2, 1, 1, 0][self as usize]
    }

    /// Runs step `t` or, with a control block, the block's.
    fn run(self, kept: &Kept, t: u64, control: Option<&Tensor>, target: impl Into<Target>, threads: usize) {
        let (gradient, master, gradient_scale) = (kept.gradient.view(), kept.master(), 0.5);
        let random = Some(Random { step: if control.is_some() { 99 } else { t }, ..kept.random });
        let control = control.map(Tensor::view);
        match self {
            Optimizer::AdamW => {
                let correction = |beta: f64| (1.0 - beta.powi(t as i32)) as f32;
                let (bias_correction1, bias_correction2) = (correction(0.9f32.into()), correction(0.999f32.into()));
                let op = AdamW {
                    gradient,
                    gradient_scale,
                    learning_rate: 3e-3,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 0.1,
                    bias_correction1,
                    bias_correction2,
                    master,
                    moment1: kept.moment(0),
                    moment2: kept.moment(1),
                    random,
                    control,
                };
                run_with(&op, target, threads);
            }
            Optimizer::Lion => {
                let op = Lion {
                    gradient,
                    gradient_scale,
                    learning_rate: 1e-3,
                    beta1: 0.9,
                    beta2: 0.99,
                    weight_decay: 0.1,
                    master,
                    moment: kept.moment(0),
                    random,
                    control,
                };
                run_with(&op, target, threads);
            }
            Optimizer::Momentum | Optimizer::Sgd => {
                let momentum = if self == Optimizer::Momentum { 0.9 } else { 0.0 };
                let op = Sgd {
                    gradient,
                    gradient_scale,
                    learning_rate: 0.02,
                    momentum,
                    dampening: 0.0,
                    nesterov: momentum > 0.0,
                    weight_decay: 0.1,
                    first_step: t == 1,
                    master,
                    momentum_buffer: (momentum > 0.0).then(|| kept.moment(0)),
                    random,
                    control,
                };
                run_with(&op, target, threads);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    F32(Option<DType>),
    Split16,
    Absent(DType),
}
const FORMATS: [Format; 8] = [
    Format::F32(None),
    Format::F32(Some(DType::F32)),
    Format::F32(Some(DType::BF16)),
    Format::F32(Some(DType::F16)),
    Format::Split16,
    Format::Absent(DType::BF16),
    Format::Absent(DType::F16),
    Format::Absent(DType::F32),
];

/// Dtypes of moments.
const MOMENTS: [DType; 3] = [DType::F32, DType::BF16, DType::U8];

const SIGNS: [Sign; 2] = [Sign::Signed, Sign::Unsigned];

/// The tensors of an update.
#[derive(Clone)]
struct Kept {
    format: Format,
    gradient: Tensor,
    /// Master, or weight and remainder, or the weight; then, of [`F32`], the weight.
    weights: Vec<Tensor>,
    moments: Vec<Tensor>,
    absmax: Vec<Tensor>,
    random: Random,
}

impl Kept {
    /// `master` and `moments` stored in formats, `offset` elements past an aligned address.
    fn new(
        format: Format,
        moment: DType,
        gradient: Tensor,
        master: &[f32],
        moments: &[Vec<f32>],
        random: Random,
        offset: usize,
    ) -> Kept {
        let n = master.len();
        let tensor = |dtype| Tensor::with_layout(dtype, &[n], 0, offset);
        let filled = |dtype, x: &[f32]| tensor(dtype).fill(|i| x[i].into());
        let weights = match format {
            Format::F32(weight) => std::iter::once(filled(DType::F32, master)).chain(weight.map(tensor)).collect(),
            Format::Split16 => {
                let (mut weight, mut remainder) = (tensor(DType::BF16), tensor(DType::I16));
                weight.set_bits16(|i| bf16_bits_nearest_away(master[i].to_bits()));
                remainder.set_bits16(|i| master[i].to_bits() as u16);
                vec![weight, remainder]
            }
            Format::Absent(dtype) => vec![filled(dtype, master)],
        };
        let mut kept = Kept { format, gradient, weights, moments: vec![], absmax: vec![], random };
        for (k, values) in moments.iter().enumerate() {
            if moment == DType::U8 {
                let (codes, absmax) = (tensor(DType::U8), Tensor::new(DType::F32, &[n.div_ceil(BLOCK)]));
                let x = filled(DType::F32, values);
                let op = Quantize { x: x.view(), sign: SIGNS[k], codes: codes.view(), absmax: absmax.view() };
                run_with(&op, levels()[0], 1);
                kept.moments.push(codes);
                kept.absmax.push(absmax);
            } else {
                kept.moments.push(filled(moment, values));
            }
        }
        kept
    }

    fn master(&self) -> Master<'_> {
        let view = |i: usize| self.weights[i].view();
        match self.format {
            Format::F32(weight) => Master::F32 { master: view(0), weight: weight.map(|_| view(1)) },
            Format::Split16 => Master::Split16 { weight: view(0), remainder: view(1) },
            Format::Absent(_) => Master::Absent { weight: view(0) },
        }
    }

    fn moment(&self, k: usize) -> Moment<'_> {
        let view = self.moments[k].view();
        match self.absmax.get(k) {
            Some(absmax) => Moment::Int8 { codes: view, absmax: absmax.view() },
            None => Moment::Plain(view),
        }
    }

    /// Sets the remainders of NaN to 0: they say which NaN it is.
    fn forget_nan(&mut self) {
        if self.format == Format::Split16 {
            let nan = self.weights[0].values();
            (0..nan.len()).filter(|i| nan[*i].is_nan()).for_each(|i| self.weights[1].set(i, 0.0));
        }
    }

    /// The part of it from `start` to `end`.
    fn shard(&self, start: usize, end: usize) -> Kept {
        let parts = |tensors: &[Tensor]| tensors.iter().map(|tensor| slice(tensor, start, end)).collect();
        let scales = |absmax| slice(absmax, start / BLOCK, end.div_ceil(BLOCK));
        Kept {
            format: self.format,
            gradient: slice(&self.gradient, start, end),
            weights: parts(&self.weights),
            moments: parts(&self.moments),
            absmax: self.absmax.iter().map(scales).collect(),
            random: Random { first_index: self.random.first_index + start as u64, ..self.random },
        }
    }

    /// Takes back the part that begins at `start`.
    fn take(&mut self, shard: Kept, start: usize) {
        let take = |to: &mut [Tensor], from: &[Tensor], start: usize| {
            for (to, from) in to.iter_mut().zip(from) {
                (0..from.numel()).for_each(|i| to.set(start + i, from.get(i)));
            }
        };
        take(&mut self.weights, &shard.weights, start);
        take(&mut self.moments, &shard.moments, start);
        take(&mut self.absmax, &shard.absmax, start / BLOCK);
    }

    fn tensors(self) -> Vec<Tensor> {
        self.weights.into_iter().chain(self.moments).chain(self.absmax).collect()
    }

    /// The master as the update reads it.
    fn master_values(&self) -> Vec<f32> {
        match self.format {
            Format::Split16 => {
                let (high, low) = (self.weights[0].bits(), self.weights[1].bits());
                let join = |i: usize| ((high[i] as u32) << 16).wrapping_add(low[i] as u16 as i16 as u32);
                (0..high.len()).map(|i| f32::from_bits(join(i))).collect()
            }
            _ => self.weights[0].values().iter().map(|x| *x as f32).collect(),
        }
    }

    fn moment_values(&self, k: usize) -> Vec<f32> {
        let Some(absmax) = self.absmax.get(k) else {
            return self.moments[k].values().iter().map(|x| *x as f32).collect();
        };
        let (map, scales) = (DynamicMap::of(SIGNS[k]), absmax.values());
        let codes = self.moments[k].bits();
        codes.iter().enumerate().map(|(i, code)| map.value(*code as u8) * scales[i / BLOCK] as f32).collect()
    }

    /// What a step must leave: that of f32 state, stored.
    fn expected(&self, optimizer: Optimizer, t: u64) -> Vec<Tensor> {
        let n = self.gradient.numel();
        let moments: Vec<_> = (0..self.moments.len()).map(|k| self.moment_values(k)).collect();
        let gradient = self.gradient.clone();
        let plain = Kept::new(Format::F32(None), DType::F32, gradient, &self.master_values(), &moments, self.random, 0);
        optimizer.run(&plain, t, None, levels()[0], 1);
        let (master, mut stored) = (plain.master_values(), self.clone());
        let key = |stream| Key { seed: self.random.seed, step: t, tensor: 2 * self.random.tensor + stream };
        let word = |stream, i: usize| key(stream).word(self.random.first_index + i as u64);
        match self.format {
            Format::F32(weight) => {
                (0..n).for_each(|i| stored.weights[0].set(i, master[i].into()));
                match weight {
                    Some(DType::BF16) => stored.weights[1].set_bits16(|i| bf16_bits_nearest_away(master[i].to_bits())),
                    Some(_) => (0..n).for_each(|i| stored.weights[1].set(i, master[i].into())),
                    None => {}
                }
            }
            Format::Split16 => {
                stored.weights[0].set_bits16(|i| bf16_bits_nearest_away(master[i].to_bits()));
                stored.weights[1].set_bits16(|i| master[i].to_bits() as u16);
            }
            Format::Absent(dtype) => {
                (0..n).for_each(|i| stored.weights[0].set(i, stochastic(dtype, master[i].into(), word(0, i))));
            }
        }
        for k in 0..self.moments.len() {
            let values = plain.moment_values(k);
            match self.moments[k].dtype() {
                DType::F32 => (0..n).for_each(|i| stored.moments[k].set(i, values[i].into())),
                DType::BF16 => (0..n).for_each(|i| {
                    let word = if k == 0 { word(1, i) } else { word(1, i) << 16 };
                    stored.moments[k].set(i, stochastic(DType::BF16, values[i].into(), word));
                }),
                _ => {
                    let (codes, absmax) = (stored.moments[k].view(), stored.absmax[k].view());
                    run_with(&Quantize { x: plain.moments[k].view(), sign: SIGNS[k], codes, absmax }, levels()[0], 1);
                }
            }
        }
        stored.forget_nan();
        stored.tensors()
    }
}

/// Normal values.
fn normal(seed: u64) -> impl FnMut() -> f64 {
    let mut rng = Rng(seed);
    move || rng.normal()
}

/// The elements from `start` to `end`.
fn slice(tensor: &Tensor, start: usize, end: usize) -> Tensor {
    Tensor::new(tensor.dtype(), &[end - start]).fill(|i| tensor.get(start + i))
}

/// State of `n` elements in these formats.
fn state(
    optimizer: Optimizer,
    format: Format,
    moment: DType,
    gradient: DType,
    n: usize,
    offset: usize,
    mut value: impl FnMut() -> f64,
) -> Kept {
    let gradient = Tensor::with_layout(gradient, &[n], 0, offset).fill(|_| value());
    let master: Vec<f32> = (0..n).map(|_| value() as f32).collect();
    let moments: Vec<Vec<f32>> = (0..optimizer.moments())
        .map(|k| (0..n).map(|_| value() as f32).map(|x| if k == 1 { x.abs() } else { x }).collect())
        .collect();
    // Ends where the index is past 2^32, and begins inside a block of random words if misaligned.
    let random =
        Random { seed: 0x1234_5678_9abc_def0, step: 0, tensor: 7, first_index: (1 << 33) - 512 + offset as u64 };
    Kept::new(format, moment, gradient, &master, &moments, random, offset)
}

#[test]
fn every_format_has_the_bits_of_f32_state() {
    let mut rng = Rng(12);
    let mut turn = 0;
    for optimizer in OPTIMIZERS {
        for format in FORMATS {
            for moment in &MOMENTS[..if optimizer == Optimizer::Sgd { 1 } else { 3 }] {
                for n in [1, 255, 1000, 16_384 + 300] {
                    // Each in turn, so that all meet all.
                    turn += 1;
                    if n > 1000 && turn % 3 != 0 {
                        continue;
                    }
                    let (gradient, offset) = (DType::FLOATS[turn % 3], [0, 1, 0, 3][turn / 3 % 4]);
                    let adversarial = turn % 4 == 1;
                    let kept = state(optimizer, format, *moment, gradient, n, offset, || {
                        if adversarial { hostile(&mut rng) } else { rng.normal() }
                    });
                    let t = [1, 2, 3_000_000_000][turn % 3];
                    let t = if optimizer == Optimizer::AdamW { t.min(1000) } else { t };
                    let outputs = run_identically(|target, threads| {
                        let mut kept = kept.clone();
                        optimizer.run(&kept, t, None, target, threads);
                        kept.forget_nan();
                        kept.tensors()
                    });
                    for (k, (output, expected)) in outputs.iter().zip(kept.expected(optimizer, t)).enumerate() {
                        let what = format!("{optimizer:?} {format:?} {moment} {gradient} {n}+{offset}: output {k}");
                        assert_same(&what, output, &expected);
                    }
                }
            }
        }
    }
}

#[test]
fn split_masters_train_as_f32_masters_for_1000_steps() {
    let (n, mut rng) = (600, Rng(21));
    for optimizer in OPTIMIZERS {
        let make = |format| state(optimizer, format, DType::F32, DType::F32, n, 0, normal(5));
        let (mut split, mut whole) = (make(Format::Split16), make(Format::F32(Some(DType::BF16))));
        for t in 1..=1000 {
            // Bowls of very different curvature, in which the weights that the model reads are.
            for i in 0..n {
                let slope = 10f64.powi((i % 5) as i32 - 3) * split.weights[0].get(i) + 0.1 * rng.normal();
                split.gradient.set(i, slope);
                whole.gradient.set(i, slope);
            }
            optimizer.run(&split, t, None, levels()[levels().len() - 1], 1);
            optimizer.run(&whole, t, None, levels()[0], 1);
            assert_same(&format!("{optimizer:?} {t}"), &split.weights[0], &whole.weights[1]);
            assert_eq!(split.master_values(), whole.master_values(), "{optimizer:?} {t}");
            for (a, b) in split.moments.iter().zip(&whole.moments) {
                assert_same(&format!("{optimizer:?} moment {t}"), a, b);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_where_tensors_are_cut() {
    let n = 3 * BLOCK + 100;
    for optimizer in OPTIMIZERS {
        for format in [Format::Split16, Format::Absent(DType::BF16), Format::Absent(DType::F16)] {
            for moment in &MOMENTS[..if optimizer == Optimizer::Sgd { 1 } else { 3 }] {
                let whole = state(optimizer, format, *moment, DType::BF16, n, 0, normal(8));
                let parts = whole.clone();
                optimizer.run(&whole, 5, None, levels()[0], 1);
                let whole = whole.tensors();
                for target in targets() {
                    let mut parts = parts.clone();
                    for (start, end) in [(0, BLOCK), (BLOCK, 3 * BLOCK), (3 * BLOCK, n)] {
                        let shard = parts.shard(start, end);
                        optimizer.run(&shard, 5, None, target, 1);
                        parts.take(shard, start);
                    }
                    for (k, (a, b)) in parts.tensors().iter().zip(&whole).enumerate() {
                        let what = format!("{} {optimizer:?} {format:?} {moment}: {k}", target.name());
                        assert_same(&what, a, b);
                    }
                }
            }
        }
    }
}

#[test]
fn a_control_block_decides_the_step_of_the_random_words() {
    for optimizer in [Optimizer::AdamW, Optimizer::Lion, Optimizer::Momentum] {
        for (format, moment) in [
            (Format::Absent(DType::BF16), DType::BF16),
            (Format::Absent(DType::F16), DType::U8),
            (Format::Split16, DType::BF16),
        ] {
            let before = state(optimizer, format, moment, DType::BF16, 700, 0, normal(9));
            for step in [1, 2, 700] {
                let plain = before.clone();
                optimizer.run(&plain, step, None, levels()[0], 1);
                let (taken, kept) = (plain.tensors(), before.clone().tensors());
                for target in targets() {
                    for skipped in [false, true] {
                        let after = before.clone();
                        optimizer.run(&after, step, Some(&control(step, 0.5, skipped)), target, 1);
                        let wanted = if skipped { &kept } else { &taken };
                        for (k, (a, b)) in after.tensors().iter().zip(wanted).enumerate() {
                            assert_same(&format!("{} {optimizer:?} {format:?} {step}: {k}", target.name()), a, b);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn stochastic_rounding_is_without_bias_and_streams_differ() {
    // A step of length zero rounds what is exact, so nothing moves; a tiny step moves weights by it on average.
    let n = 1 << 16;
    let before = state(Optimizer::Sgd, Format::Absent(DType::BF16), DType::F32, DType::F32, n, 0, || 1.0);
    Optimizer::Sgd.run(&before, 1, None, levels()[0], 1);
    let moved = 1.0 - before.weights[0].values().iter().sum::<f64>() / n as f64;
    // learning rate (0.5 gradient + 0.1 weight) = 0.012; a unit below 1 is 2^-8, and deviations are below half of it.
    assert!((moved - 0.012).abs() < 4.0 * 2f64.powi(-9) / (n as f64).sqrt(), "{moved}");

    let moments = state(Optimizer::AdamW, Format::Absent(DType::BF16), DType::BF16, DType::F32, n, 0, || 1.0);
    Optimizer::AdamW.run(&moments, 1, None, levels()[0], 1);
    let up: Vec<Vec<bool>> = [&moments.weights[0], &moments.moments[0], &moments.moments[1]]
        .map(|tensor| {
            let values = tensor.values();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            values.iter().map(|x| *x > least).collect()
        })
        .into();
    let share = |a: &[bool]| a.iter().filter(|up| **up).count() as f64 / n as f64;
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let both: Vec<bool> = up[a].iter().zip(&up[b]).map(|(a, b)| *a && *b).collect();
        let (a, b, both) = (share(&up[a]), share(&up[b]), share(&both));
        assert!(a > 0.01 && a < 0.99 && (both - a * b).abs() < 4.0 * 0.5 / (n as f64).sqrt(), "{a} {b} {both}");
    }
}

#[test]
fn training_with_8_bit_moments_follows_that_with_f32_moments() {
    let (n, mut rng) = (1024, Rng(31));
    let make = |moment| state(Optimizer::AdamW, Format::Split16, moment, DType::F32, n, 0, normal(6));
    let (mut small, mut full) = (make(DType::U8), make(DType::F32));
    for kept in [&mut small, &mut full] {
        let zero = vec![0.0; n];
        let fresh = Kept::new(
            Format::Split16,
            kept.moments[0].dtype(),
            kept.gradient.clone(),
            &kept.master_values(),
            &[zero.clone(), zero],
            kept.random,
            0,
        );
        *kept = fresh;
    }
    let start = full.master_values();
    for t in 1..=300 {
        for i in 0..n {
            let noise = 0.1 * rng.normal();
            for kept in [&mut small, &mut full] {
                let x = f64::from(kept.weights[0].get(i) as f32);
                kept.gradient.set(i, x + noise);
            }
        }
        Optimizer::AdamW.run(&small, t, None, levels()[0], 1);
        Optimizer::AdamW.run(&full, t, None, levels()[0], 1);
    }
    let (small, full) = (small.master_values(), full.master_values());
    let distance = |a: &[f32], b: &[f32]| {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / n as f64).sqrt()
    };
    assert!(distance(&small, &full) < 0.1 * distance(&start, &full), "{}", distance(&small, &full));
}

#[test]
fn helpers_read_what_optimizers_write() {
    let kept = state(Optimizer::AdamW, Format::Split16, DType::U8, DType::BF16, 1000, 0, normal(10));
    Optimizer::AdamW.run(&kept, 3, None, levels()[0], 1);
    for (k, sign) in SIGNS.into_iter().enumerate() {
        let y = Tensor::new(DType::F32, &[1000]);
        let (codes, absmax) = (kept.moments[k].view(), kept.absmax[k].view());
        run_with(&Dequantize { codes, absmax, sign, y: y.view() }, levels()[0], 1);
        assert_eq!(y.values().iter().map(|x| *x as f32).collect::<Vec<_>>(), kept.moment_values(k));
    }
}

#[test]
fn bad_formats_are_named() {
    let n = 300;
    let kept = state(Optimizer::AdamW, Format::Split16, DType::U8, DType::BF16, n, 0, normal(1));
    let random = Some(kept.random);
    let good = AdamW {
        gradient: kept.gradient.view(),
        gradient_scale: 1.0,
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        bias_correction1: 1.0,
        bias_correction2: 1.0,
        master: kept.master(),
        moment1: kept.moment(0),
        moment2: kept.moment(1),
        random: None,
        control: None,
    };
    assert!(good.check().is_ok());
    let refused = |op: AdamW<'_>| op.check().unwrap_err().argument;
    let tensor = |dtype| Tensor::new(dtype, &[n]);
    let (f32s, bf16s, f16s) = (tensor(DType::F32), tensor(DType::BF16), tensor(DType::F16));
    let (weight, remainder) = (kept.weights[0].view(), kept.weights[1].view());
    let split = |weight, remainder| AdamW { master: Master::Split16 { weight, remainder }, ..good };
    assert_eq!(refused(split(f16s.view(), remainder)), "weight");
    assert_eq!(refused(split(weight, bf16s.view())), "remainder");
    let few = Tensor::new(DType::I16, &[n - 1]);
    assert_eq!(refused(split(weight, few.view())), "remainder");
    assert_eq!(refused(AdamW { master: Master::Absent { weight: remainder }, random, ..good }), "weight");
    assert_eq!(refused(AdamW { master: Master::Absent { weight }, ..good }), "random");
    assert!(AdamW { master: Master::Absent { weight }, random, ..good }.check().is_ok());
    assert!(AdamW { master: Master::Absent { weight: f32s.view() }, ..good }.check().is_ok());
    assert_eq!(refused(AdamW { moment2: Moment::Plain(f32s.view()), ..good }), "moment2");
    let plain = AdamW { moment1: Moment::Plain(bf16s.view()), ..good };
    let other = tensor(DType::BF16);
    assert_eq!(refused(AdamW { moment2: Moment::Plain(other.view()), ..plain }), "random");
    assert!(AdamW { moment2: Moment::Plain(other.view()), random, ..plain }.check().is_ok());
    assert_eq!(refused(AdamW { moment1: Moment::Plain(f16s.view()), ..good }), "moment1");
    let short = Tensor::new(DType::F32, &[1]);
    let codes = kept.moments[0].view();
    assert_eq!(refused(AdamW { moment1: Moment::Int8 { codes, absmax: short.view() }, ..good }), "moment1_absmax");
    let absmax = kept.absmax[1].view();
    assert_eq!(refused(AdamW { moment1: Moment::Int8 { codes, absmax }, ..good }), "moment2_absmax");
    let far = Random { tensor: 1 << 31, ..kept.random };
    assert_eq!(refused(AdamW { random: Some(far), ..good }), "random");
    let late = Random { step: 1 << 34, ..kept.random };
    assert_eq!(refused(AdamW { random: Some(late), ..good }), "random");
    let gaps = Tensor::with_layout(DType::BF16, &[3, 100], 4, 0);
    assert_eq!(refused(AdamW { gradient: gaps.view(), ..good }), "gradient");
}
