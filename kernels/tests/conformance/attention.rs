use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::attention::reference::Attention;
use scalert_kernels::ops::attention::{AttentionBackward, AttentionForward, Implementation};
use scalert_kernels::view::View;

/// `[b, t or s, h, d]`, or f32 `[b, hq, t]`.
fn query_shape(a: &Attention) -> [usize; 4] {
    [a.b, a.t, a.hq, a.d]
}
fn key_shape(a: &Attention) -> [usize; 4] {
    [a.b, a.s, a.hk, a.d]
}

/// Inputs of one case, and the outputs that the reference gives for them.
pub struct Case {
    pub sizes: Attention,
    dtype: DType,
    padding: usize,
    /// Whether the results begin where vectors may.
    aligned: bool,
    pub implementation: Implementation,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
}

impl Case {
    pub fn new(sizes: Attention, dtype: DType, padding: usize, rng: &mut Rng) -> Case {
        let mut tensor =
            |shape: [usize; 4], offset| Tensor::with_layout(dtype, &shape, padding, offset).normal(rng, 1.0);
        Case {
            q: tensor(query_shape(&sizes), 1),
            k: tensor(key_shape(&sizes), 0),
            v: tensor(key_shape(&sizes), 3),
            dout: tensor(query_shape(&sizes), 2),
            sizes,
            dtype,
            padding,
            aligned: false,
            implementation: Implementation::Auto,
        }
    }

    /// With rows that begin where vectors may.
    pub fn align(mut self) -> Case {
        for tensor in [&mut self.q, &mut self.k, &mut self.v, &mut self.dout] {
            let values = tensor.values();
            *tensor = Tensor::with_layout(self.dtype, tensor.shape(), 8, 0).fill(|i| values[i]);
        }
        Case { padding: 8, aligned: true, ..self }
    }

    pub fn forward<'a>(&'a self, out: &'a Tensor, log_sum_exp: Option<&'a Tensor>) -> AttentionForward<'a> {
        AttentionForward {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            causal: self.sizes.causal,
            scale: self.sizes.scale as f32,
            out: out.view(),
            log_sum_exp: log_sum_exp.map(Tensor::view),
            implementation: self.implementation,
        }
    }

    /// `out`, `log_sum_exp`, `dq`, `dk`, `dv`, by whatever runs the two passes.
    pub fn outputs(
        &self,
        forward: impl FnOnce(&AttentionForward<'_>),
        backward: impl FnOnce(&AttentionBackward<'_>),
    ) -> Vec<Tensor> {
        let a = &self.sizes;
        let offset = |offset| if self.aligned { 0 } else { offset };
        let tensor = |shape: [usize; 4], at| Tensor::with_layout(self.dtype, &shape, self.padding, offset(at));
        let log_sum_exp = Tensor::with_layout(DType::F32, &[a.b, a.hq, a.t], 3, offset(1));
        let out = tensor(query_shape(a), 2);
        let (dq, dk, dv) = (tensor(query_shape(a), 0), tensor(key_shape(a), 1), tensor(key_shape(a), 0));
        forward(&self.forward(&out, Some(&log_sum_exp)));
        backward(&AttentionBackward {
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            out: out.view(),
            log_sum_exp: log_sum_exp.view(),
            dout: self.dout.view(),
            causal: a.causal,
            scale: a.scale as f32,
            dq: dq.view(),
            dk: dk.view(),
            dv: dv.view(),
            implementation: Implementation::Auto,
        });
        vec![out, log_sum_exp, dq, dk, dv]
    }

    /// The outputs at every level, the same on any number of threads.
    fn run(&self) -> Vec<(String, Vec<Tensor>)> {
        let outputs = run_everywhere(|level, threads| {
            self.outputs(|op| run_with(op, level, threads), |op| run_with(op, level, threads))
        });
        let what = |level: &str| format!("{level} {} {:?}", self.dtype, self.sizes);
        outputs.into_iter().map(|(level, outputs)| (what(level.name()), outputs)).collect()
    }

    fn check(&self) {
        self.check_outputs(self.run());
    }

    /// Requires the contract's tolerance of every output.
    pub fn check_outputs(&self, results: Vec<(String, Vec<Tensor>)>) {
        let a = &self.sizes;
        let (q, k, v) = (self.q.values(), self.k.values(), self.v.values());
        let (out, log_sum_exp) = a.forward(&q, &k, &v);
        let (dq, dk, dv) = a.backward(&q, &k, &v, &self.dout.values());
        let terms = a.largest_terms(&q, &k, &v, &self.dout.values());
        let largest = |x: &[f64]| x.iter().filter(|x| x.is_finite()).fold(0.0, |m: f64, x| m.max(x.abs()));
        let e = epsilon(self.dtype).max(2f64.powi(-18));
        for (what, outputs) in results {
            assert_close(&format!("{what} out"), &outputs[0], &out, e, 2.0 * e * largest(&v));
            let bound = 2f64.powi(-19) * largest(&log_sum_exp).max(1.0);
            assert_close(&format!("{what} log_sum_exp"), &outputs[1], &log_sum_exp, 0.0, bound);
            for (i, (name, expected)) in [("dq", &dq), ("dk", &dk), ("dv", &dv)].into_iter().enumerate() {
                let bound = 4.0 * e * largest(expected).max(terms[i]);
                assert_close(&format!("{what} {name}"), &outputs[2 + i], expected, e, bound);
            }
        }
    }
}

pub fn sizes(b: usize, t: usize, s: usize, hq: usize, hk: usize, d: usize, causal: bool) -> Attention {
    Attention { b, t, s, hq, hk, d, causal, scale: 0.0 }
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(11);
    for dtype in DType::FLOATS {
        for causal in [false, true] {
            for (t, s) in [(1, 1), (1, 70), (2, 3), (17, 17), (64, 64), (65, 65), (63, 130), (130, 197), (200, 200)] {
                Case::new(sizes(1, t, s, 2, 1, 24, causal), dtype, 5, &mut rng).check();
            }
            Case::new(sizes(2, 70, 99, 4, 2, 64, causal), dtype, 0, &mut rng).check();
            // As many key heads as make each one task, of one block and of several.
            Case::new(sizes(33, 5, 6, 1, 1, 16, causal), dtype, 0, &mut rng).check();
            Case::new(sizes(16, 70, 70, 4, 2, 16, causal), dtype, 0, &mut rng).check();
        }
        Case::new(sizes(1, 40, 10, 3, 3, 32, false), dtype, 1, &mut rng).check();
    }
}

#[test]
fn every_head_dimension_works() {
    let mut rng = Rng(12);
    for dtype in DType::FLOATS {
        for d in (16..=256).step_by(8) {
            Case::new(sizes(1, 19, 35, 1, 1, d, true), dtype, 1, &mut rng).check();
        }
    }
}

#[test]
fn aligned_rows_work() {
    let mut rng = Rng(23);
    for dtype in [DType::BF16, DType::F16] {
        Case::new(sizes(1, 150, 170, 2, 1, 64, true), dtype, 0, &mut rng).align().check();
        Case::new(sizes(1, 130, 110, 1, 1, 128, false), dtype, 0, &mut rng).align().check();
        Case::new(sizes(1, 40, 50, 1, 1, 96, true), dtype, 0, &mut rng).align().check();
        Case::new(sizes(1, 40, 50, 1, 1, 200, true), dtype, 0, &mut rng).align().check();
    }
    Case::new(sizes(1, 40, 50, 1, 1, 72, true), DType::F32, 0, &mut rng).align().check();
}

#[test]
fn gradients_of_any_size_keep_their_precision() {
    let mut rng = Rng(24);
    for factor in [2f64.powi(-10), 2f64.powi(12)] {
        for (t, s) in [(70, 70), (3, 150)] {
            let mut case = Case::new(sizes(1, t, s, 2, 1, 16, false), DType::F16, 0, &mut rng);
            case.dout = case.dout.normal(&mut rng, factor);
            case.check();
        }
    }
}

#[test]
fn scales_are_applied() {
    let mut rng = Rng(13);
    for scale in [0.5, -0.25, 1e-3] {
        for dtype in DType::FLOATS {
            Case::new(Attention { scale, ..sizes(1, 33, 33, 2, 2, 16, true) }, dtype, 0, &mut rng).check();
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut rng = Rng(14);
    for dtype in DType::FLOATS {
        for sign in [1.0, -1.0] {
            let mut case = Case::new(sizes(1, 80, 80, 1, 1, 16, true), dtype, 0, &mut rng);
            // One-hot keys and queries: scores of exactly 0 or +-1000, far outside what exp can hold.
            case.q = Tensor::new(dtype, &[1, 80, 1, 16]).fill(|i| if i % 16 == i / 16 % 16 { 1000.0 } else { 0.0 });
            case.k = Tensor::new(dtype, &[1, 80, 1, 16]).fill(|i| if i % 16 == i / 16 % 16 { 4.0 * sign } else { 0.0 });
            let (out, log_sum_exp) = case.sizes.forward(&case.q.values(), &case.k.values(), &case.v.values());
            for (what, outputs) in case.run() {
                let e = epsilon(dtype).max(1e-5);
                assert_close(&what, &outputs[0], &out, e, 4.0 * e);
                assert_close(&what, &outputs[1], &log_sum_exp, 1e-6, 1e-5);
                assert!(outputs.iter().all(|x| x.values().iter().all(|x| x.is_finite())));
            }
        }
    }
}

#[test]
fn gradients_of_the_reference_are_central_differences() {
    let mut rng = Rng(15);
    for (a, h) in [(sizes(1, 3, 5, 2, 1, 2, true), 1e-4), (sizes(2, 2, 3, 2, 2, 3, false), 1e-4)] {
        let mut values = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<_>>();
        let (queries, keys) = (query_shape(&a).iter().product(), key_shape(&a).iter().product());
        let (q, k, v, dout) = (values(queries), values(keys), values(keys), values(queries));
        let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
            a.forward(q, k, v).0.iter().zip(&dout).map(|(out, dout)| out * dout).sum()
        };
        let (dq, dk, dv) = a.backward(&q, &k, &v, &dout);
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-6, "{x} {y}");
        (0..queries).for_each(|i| close(central_difference(&q, i, h, |q| loss(q, &k, &v)), dq[i]));
        (0..keys).for_each(|i| close(central_difference(&k, i, h, |k| loss(&q, k, &v)), dk[i]));
        (0..keys).for_each(|i| close(central_difference(&v, i, h, |v| loss(&q, &k, v)), dv[i]));
    }
}

#[test]
fn what_a_query_does_not_see_has_no_influence() {
    let mut rng = Rng(16);
    let same = |what: &str, name: &str, a: &Tensor, b: &[f64]| {
        for (i, &b) in b.iter().enumerate() {
            let a = a.get(i);
            let close = (a - b).abs() <= 0.03 * b.abs() + 0.1;
            assert!(a.is_nan() && b.is_nan() || close, "{what} {name}: element {i} is {a}, expected {b}");
        }
    };
    for dtype in DType::FLOATS {
        for bad in [f64::NAN, f64::INFINITY] {
            // One bad element in the middle of each argument in turn: only what sees it may notice.
            for argument in 0..4 {
                let mut case = Case::new(sizes(1, 100, 110, 1, 1, 16, true), dtype, 0, &mut rng);
                let [q, k, v, dout] = [&mut case.q, &mut case.k, &mut case.v, &mut case.dout];
                [q, k, v, dout].into_iter().nth(argument).unwrap().set(75 * 16 + 5, bad);
                let (q, k, v) = (case.q.values(), case.k.values(), case.v.values());
                let (out, _) = case.sizes.forward(&q, &k, &v);
                let (dq, dk, dv) = case.sizes.backward(&q, &k, &v, &case.dout.values());
                for (what, outputs) in case.run() {
                    let what = format!("{what}, {bad} in argument {argument}");
                    // An infinite input gives infinite or NaN outputs as the order of sums has it; NaN is exact.
                    if bad.is_nan() {
                        for (name, i, x) in [("out", 0, &out), ("dq", 2, &dq), ("dk", 3, &dk), ("dv", 4, &dv)] {
                            same(&what, name, &outputs[i], x);
                        }
                    }
                    for (i, expected) in [(0, &out), (2, &dq), (3, &dk), (4, &dv)] {
                        for (j, x) in expected.iter().enumerate() {
                            assert!(!x.is_finite() || outputs[i].get(j).is_finite(), "{what} output {i} element {j}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_to_see_gives_zero() {
    let case = Case::new(sizes(2, 5, 0, 2, 1, 16, false), DType::BF16, 0, &mut Rng(17));
    for (_, outputs) in case.run() {
        assert!(outputs[0].values().iter().chain(&outputs[2].values()).all(|x| *x == 0.0));
        assert!(outputs[1].values().iter().all(|x| *x == f64::NEG_INFINITY));
    }
    let case = Case::new(sizes(2, 0, 5, 2, 1, 16, true), DType::F32, 0, &mut Rng(18));
    for (_, outputs) in case.run() {
        assert!(outputs[3].values().iter().chain(&outputs[4].values()).all(|x| *x == 0.0));
    }
    Case::new(sizes(0, 4, 5, 2, 1, 16, true), DType::F16, 0, &mut Rng(19)).run();
    Case::new(sizes(1, 4, 5, 0, 0, 16, true), DType::F32, 0, &mut Rng(19)).run();
}

/// Part `which` of a packed `[b, t, 3, h, d]` tensor.
pub fn part<'a>(packed: &'a Tensor, which: usize, a: &Attention) -> View<'a> {
    let row = 3 * a.hq * a.d;
    let data = packed.view().data().wrapping_add(which * a.hq * a.d * packed.dtype().size());
    // SAFETY: a part of the packed tensor.
    unsafe { View::new("part", data, packed.dtype(), &query_shape(a), &[a.t * row, row, a.d, 1]) }.unwrap()
}

#[test]
fn works_on_parts_of_packed_qkv() {
    let mut rng = Rng(20);
    let a = sizes(2, 70, 70, 2, 2, 24, true);
    for dtype in DType::FLOATS {
        let case = Case::new(a, dtype, 0, &mut rng);
        let packed = Tensor::new(dtype, &[a.b, a.t, 3, a.hq, a.d]);
        let packed = packed.fill(|i| {
            let (row, which, at) = (i / 144, i / 48 % 3, i % 48);
            [&case.q, &case.k, &case.v][which].get(row * 48 + at)
        });
        let expected = case.run();
        for (level, (what, expected)) in targets().into_iter().zip(expected) {
            let out = Tensor::new(dtype, &query_shape(&a));
            let log_sum_exp = Tensor::new(DType::F32, &[a.b, a.hq, a.t]);
            let gradients = Tensor::new(dtype, &[a.b, a.t, 3, a.hq, a.d]);
            let (q, k, v) = (part(&packed, 0, &a), part(&packed, 1, &a), part(&packed, 2, &a));
            // Others may sum in another order where rows are aligned.
            let (causal, scale, implementation) = (true, 0.0, Implementation::Own);
            let (out_view, log_sum_exp) = (out.view(), log_sum_exp.view());
            let forward = AttentionForward {
                q,
                k,
                v,
                causal,
                scale,
                out: out_view,
                log_sum_exp: Some(log_sum_exp),
                implementation,
            };
            run_with(&forward, level, 2);
            let [dq, dk, dv] = [0, 1, 2].map(|which| part(&gradients, which, &a));
            let backward = AttentionBackward {
                q,
                k,
                v,
                out: out_view,
                log_sum_exp,
                dout: case.dout.view(),
                causal,
                scale,
                dq,
                dk,
                dv,
                implementation,
            };
            run_with(&backward, level, 2);
            assert!(out.bits() == expected[0].bits(), "{what}");
            let bits = gradients.bits();
            for which in 0..3 {
                let same = expected[2 + which]
                    .bits()
                    .iter()
                    .enumerate()
                    .all(|(i, bits_of)| bits[(i / 48 * 3 + which) * 48 + i % 48] == *bits_of);
                assert!(same, "{what}: gradient {which}");
            }
        }
    }
}

#[test]
fn log_sum_exp_is_optional() {
    let case = Case::new(sizes(1, 9, 9, 1, 1, 16, true), DType::F32, 0, &mut Rng(21));
    for (level, (_, expected)) in targets().into_iter().zip(case.run()) {
        let out = Tensor::new(DType::F32, &[1, 9, 1, 16]);
        run_with(&case.forward(&out, None), level, 1);
        assert!(out.bits() == expected[0].bits());
    }
}

#[test]
fn bad_arguments_are_refused() {
    let case = Case::new(sizes(2, 4, 6, 4, 2, 16, true), DType::BF16, 0, &mut Rng(22));
    let out = Tensor::new(DType::BF16, &[2, 4, 4, 16]);
    let log_sum_exp = Tensor::new(DType::F32, &[2, 4, 4]);
    let forward = case.forward(&out, Some(&log_sum_exp));
    forward.check().unwrap();
    let (dq, dk, dv) = (out.clone(), case.k.clone(), case.k.clone());
    let backward = AttentionBackward {
        q: forward.q,
        k: forward.k,
        v: forward.v,
        out: forward.out,
        log_sum_exp: log_sum_exp.view(),
        dout: case.dout.view(),
        causal: true,
        scale: 0.0,
        dq: dq.view(),
        dk: dk.view(),
        dv: dv.view(),
        implementation: Implementation::Auto,
    };
    backward.check().unwrap();
    let bf16 = |shape: &[usize]| Tensor::new(DType::BF16, shape);
    let f32 = |shape: &[usize]| Tensor::new(DType::F32, shape);

    let refused = |op: AttentionForward<'_>, argument: &str| assert_eq!(op.check().unwrap_err().argument, argument);
    refused(AttentionForward { q: Tensor::new(DType::I32, &[2, 4, 4, 16]).view(), ..forward }, "q");
    refused(AttentionForward { q: bf16(&[4, 4, 16]).view(), ..forward }, "q");
    for d in [8, 20, 264] {
        refused(AttentionForward { q: bf16(&[2, 4, 4, d]).view(), ..forward }, "q");
    }
    refused(AttentionForward { k: f32(&[2, 6, 2, 16]).view(), ..forward }, "k");
    refused(AttentionForward { k: bf16(&[3, 6, 2, 16]).view(), ..forward }, "k");
    refused(AttentionForward { k: bf16(&[2, 6, 3, 16]).view(), ..forward }, "k");
    refused(AttentionForward { k: bf16(&[2, 6, 0, 16]).view(), ..forward }, "k");
    refused(AttentionForward { k: bf16(&[2, 6, 2, 24]).view(), ..forward }, "k");
    let few = bf16(&[2, 3, 2, 16]);
    refused(AttentionForward { k: few.view(), v: few.view(), ..forward }, "k");
    AttentionForward { k: few.view(), v: few.view(), causal: false, ..forward }.check().unwrap();
    refused(AttentionForward { v: bf16(&[2, 5, 2, 16]).view(), ..forward }, "v");
    for scale in [f32::NAN, f32::INFINITY] {
        refused(AttentionForward { scale, ..forward }, "scale");
    }
    refused(AttentionForward { out: f32(&[2, 4, 4, 16]).view(), ..forward }, "out");
    refused(AttentionForward { out: bf16(&[2, 4, 2, 16]).view(), ..forward }, "out");
    refused(AttentionForward { out: forward.q, ..forward }, "out");
    refused(AttentionForward { log_sum_exp: Some(bf16(&[2, 4, 4]).view()), ..forward }, "log_sum_exp");
    refused(AttentionForward { log_sum_exp: Some(f32(&[2, 4, 5]).view()), ..forward }, "log_sum_exp");

    let refused = |op: AttentionBackward<'_>, argument: &str| assert_eq!(op.check().unwrap_err().argument, argument);
    refused(AttentionBackward { v: f32(&[2, 6, 2, 16]).view(), ..backward }, "v");
    refused(AttentionBackward { out: bf16(&[2, 4, 4, 24]).view(), ..backward }, "out");
    refused(AttentionBackward { log_sum_exp: f32(&[2, 4]).view(), ..backward }, "log_sum_exp");
    refused(AttentionBackward { dout: bf16(&[2, 5, 4, 16]).view(), ..backward }, "dout");
    refused(AttentionBackward { scale: f32::NAN, ..backward }, "scale");
    refused(AttentionBackward { dq: f32(&[2, 4, 4, 16]).view(), ..backward }, "dq");
    refused(AttentionBackward { dq: backward.q, ..backward }, "dq");
    refused(AttentionBackward { dk: bf16(&[2, 6, 4, 16]).view(), ..backward }, "dk");
    refused(AttentionBackward { dk: backward.k, ..backward }, "dk");
    refused(AttentionBackward { dv: backward.dk, ..backward }, "dv");
}
