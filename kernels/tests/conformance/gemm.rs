use crate::harness::{
    Rng, Target, Tensor, assert_each_close, epsilon, half_denormal, levels, run_everywhere, run_with, targets,
};
use scalert_kernels::backend::cpu::Level;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::gemm::{Activation, Compute, Gemm, Implementation, reference};
use scalert_kernels::view::View;

pub const TRANSPOSES: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];

fn exchanged(shape: &[usize], transposed: bool) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if transposed {
        let d = shape.len();
        shape.swap(d - 2, d - 1);
    }
    shape
}

/// One product with everything that can be asked of it, and its expected result.
pub struct Case {
    pub dims: [usize; 3],
    pub transposes: [bool; 2],
    pub a: Tensor,
    pub b: Tensor,
    pub c: Tensor,
    pub alpha: f32,
    pub beta: f32,
    pub bias: Option<Tensor>,
    pub activation: Activation,
    /// Read by backward activations; a forward one writes a copy of it.
    pub pre_activation: Option<Tensor>,
    pub compute: Compute,
    pub implementation: Implementation,
}

impl Case {
    pub fn new(rng: &mut Rng, dims: [usize; 3], transposes: [bool; 2], dtype: DType, c_dtype: DType) -> Case {
        let [m, n, k] = dims;
        let a_shape = exchanged(&[m, k], transposes[0]);
        let b_shape = exchanged(&[k, n], transposes[1]);
        Case {
            dims,
            transposes,
            a: Tensor::with_layout(dtype, &a_shape, rng.below(4), rng.below(4)).normal(rng, 1.0),
            b: Tensor::with_layout(dtype, &b_shape, rng.below(4), rng.below(4)).normal(rng, 1.0),
            c: Tensor::with_layout(c_dtype, &[m, n], rng.below(4), rng.below(4)).fill(|_| f64::NAN),
            alpha: 1.0,
            beta: 0.0,
            bias: None,
            activation: Activation::None,
            pre_activation: None,
            compute: Compute::Default,
            implementation: Implementation::Auto,
        }
    }

    /// [`Self::new`] with rows of whole 16 bytes.
    pub fn aligned(rng: &mut Rng, dims: [usize; 3], transposes: [bool; 2], dtype: DType, c_dtype: DType) -> Case {
        let case = Case::new(rng, dims, transposes, dtype, c_dtype);
        let padded = |tensor: &Tensor| {
            let width = *tensor.shape().last().unwrap();
            Tensor::with_layout(tensor.dtype(), tensor.shape(), width.next_multiple_of(8) + 8 - width, 0)
        };
        Case {
            a: padded(&case.a).normal(rng, 1.0),
            b: padded(&case.b).normal(rng, 1.0),
            c: padded(&case.c).fill(|_| f64::NAN),
            ..case
        }
    }

    /// The outputs: c, and pre_activation if there is one.
    fn run(&self, target: impl Into<Target>, threads: usize) -> Vec<Tensor> {
        self.run_by(|op| run_with(op, target, threads))
    }

    /// [`Self::run`] with a way of one's own to run.
    pub fn run_by(&self, run: impl FnOnce(&Gemm<'_>)) -> Vec<Tensor> {
        let c = self.c.clone();
        let pre = self.pre_activation.clone();
        let op = Gemm {
            transpose_a: self.transposes[0],
            transpose_b: self.transposes[1],
            a: self.a.view(),
            b: self.b.view(),
            c: c.view(),
            alpha: self.alpha,
            beta: self.beta,
            bias: self.bias.as_ref().map(Tensor::view),
            activation: self.activation,
            pre_activation: pre.as_ref().map(Tensor::view),
            compute: self.compute,
            implementation: self.implementation,
        };
        run(&op);
        std::iter::once(c).chain(pre).collect()
    }

    pub fn check(&self, what: &str) {
        let outputs = run_everywhere(|level, threads| self.run(level, threads));
        self.check_outputs(what, outputs.iter().map(|(level, outputs)| (level.name(), &outputs[..])), 0.0);
    }

    /// Requires what the contract promises of the outputs of each target; `coarse` is added to the relative error.
    pub fn check_outputs<'a>(
        &self,
        what: &str,
        targets: impl IntoIterator<Item = (&'a str, &'a [Tensor])>,
        coarse: f64,
    ) {
        let [_, n, k] = self.dims;
        let (a, b, c) = (self.a.values(), self.b.values(), self.c.values());
        let bias = self.bias.as_ref().map(Tensor::values);
        let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let product = reference::product(self.dims, self.transposes, &a, &b);
        let magnitude = reference::product(self.dims, self.transposes, &abs(&a), &abs(&b));
        let magnitude = reference::affine(
            n,
            &magnitude,
            alpha.abs(),
            beta.abs(),
            &abs(&c),
            bias.as_ref().map(|bias| abs(bias)).as_deref(),
        );
        let backward = matches!(self.activation, Activation::GeluTanhBackward | Activation::GeluExactBackward);
        let before = reference::affine(n, &product, alpha, if backward { 0.0 } else { beta }, &c, bias.as_deref());
        let after = if backward {
            let pre = self.pre_activation.as_ref().unwrap().values();
            reference::affine(n, &reference::backward(self.activation, &before, &pre), 1.0, beta, &c, None)
        } else {
            reference::forward(self.activation, &before)
        };
        // Slopes of GELU are below 1.13; its own tolerance is 16 units.
        let gelu = if self.activation == Activation::None { 0.0 } else { 16.0 };
        let dtype = self.c.dtype();
        let tolerance =
            |i: usize| ((k as f64 + 4.0 + gelu) * 1.13 * 2f64.powi(-24) + coarse) * magnitude[i] + half_denormal(dtype);
        for (name, outputs) in targets {
            let what = format!("{what} {:?} {:?} {} {name}", self.dims, self.transposes, self.a.dtype());
            assert_each_close(&format!("{what} c"), &outputs[0], &after, epsilon(dtype), tolerance);
            if let (Some(pre), false) = (outputs.get(1), backward) {
                assert_each_close(&format!("{what} pre_activation"), pre, &before, epsilon(dtype), tolerance);
            }
        }
    }
}

#[test]
fn matches_the_reference_around_tile_sizes() {
    let mut rng = Rng(1);
    let dims = [
        [1, 1, 1],
        [1, 33, 5],
        [2, 16, 2],
        [3, 7, 17],
        [5, 31, 16],
        [8, 9, 15],
        [9, 32, 33],
        [14, 48, 31],
        [15, 65, 3],
        [29, 17, 64],
        [43, 100, 47],
    ];
    for dims in dims {
        for transposes in TRANSPOSES {
            for dtype in DType::FLOATS {
                Case::new(&mut rng, dims, transposes, dtype, dtype).check("plain");
            }
        }
    }
}

#[test]
fn matches_the_reference_across_blocks() {
    let mut rng = Rng(2);
    for (dims, transposes) in [
        ([530, 545, 9], [false, false]),
        ([9, 545, 40], [true, true]),
        ([37, 70, 255], [false, true]),
        ([37, 70, 257], [true, false]),
        ([31, 33, 513], [true, true]),
        ([40, 50, 1100], [false, false]),
    ] {
        for dtype in DType::FLOATS {
            Case::new(&mut rng, dims, transposes, dtype, DType::F32).check("blocks");
        }
    }
}

#[test]
fn scales_adds_and_activates() {
    let mut rng = Rng(3);
    for (dtype, c_dtype) in [
        (DType::F32, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::F16, DType::F16),
        (DType::F16, DType::F32),
    ] {
        for (alpha, beta) in [(1.0, 1.0), (-0.25, 0.0), (0.5, -2.0), (0.0, 1.0)] {
            for bias in [None, Some(DType::F32), Some(dtype)] {
                for activation in [
                    Activation::None,
                    Activation::GeluTanh,
                    Activation::GeluExact,
                    Activation::GeluTanhBackward,
                    Activation::GeluExactBackward,
                ] {
                    let backward = matches!(activation, Activation::GeluTanhBackward | Activation::GeluExactBackward);
                    if backward && bias.is_some() {
                        continue;
                    }
                    let dims @ [m, n, _] = [17, 37, 21];
                    let mut case = Case::new(&mut rng, dims, [false, true], dtype, c_dtype);
                    (case.alpha, case.beta, case.activation) = (alpha, beta, activation);
                    case.bias = bias.map(|dtype| Tensor::with_layout(dtype, &[n], 0, 1).normal(&mut rng, 1.0));
                    if beta != 0.0 {
                        case.c = Tensor::with_layout(c_dtype, &[m, n], 1, 1).normal(&mut rng, 1.0);
                    }
                    if backward {
                        case.pre_activation = Some(Tensor::with_layout(c_dtype, &[m, n], 2, 3).normal(&mut rng, 2.0));
                    } else if activation != Activation::None && alpha != -0.25 {
                        case.pre_activation = Some(Tensor::with_layout(c_dtype, &[m, n], 2, 3));
                    }
                    case.check(&format!("{alpha} {beta} {bias:?} {activation:?} {c_dtype}"));
                }
            }
        }
    }
}

#[test]
fn backward_activation_may_overwrite_its_input() {
    let mut rng = Rng(4);
    let mut case = Case::new(&mut rng, [9, 40, 8], [false, false], DType::BF16, DType::BF16);
    case.activation = Activation::GeluTanhBackward;
    let pre = Tensor::with_layout(DType::BF16, &[9, 40], 1, 1).normal(&mut rng, 1.0);
    case.pre_activation = Some(pre.clone());
    for level in targets() {
        let apart = case.run(level, 2);
        let c = pre.clone();
        let op = Gemm {
            activation: case.activation,
            pre_activation: Some(c.view()),
            ..Gemm::new(false, false, case.a.view(), case.b.view(), c.view())
        };
        run_with(&op, level, 2);
        assert!(c.bits() == apart[0].bits(), "{}", level.name());
    }
}

#[test]
fn batches_are_the_products_of_their_matrices() {
    let mut rng = Rng(5);
    let [m, n, k] = [5, 19, 6];
    let leads: [(&[usize], &[usize], &[usize]); 7] = [
        (&[3], &[3], &[3]),
        (&[3], &[], &[3]),
        (&[], &[3], &[3]),
        (&[2, 3], &[2, 1], &[2, 3]),
        (&[1, 3], &[2, 3], &[2, 3]),
        (&[2, 2, 3], &[], &[2, 2, 3]),
        (&[], &[1, 1, 1], &[2, 1, 2]),
    ];
    for (a_lead, b_lead, c_lead) in leads {
        for transposes @ [transpose_a, transpose_b] in TRANSPOSES {
            for (padding, m) in [(0, m), (2, m), (0, 1)] {
                let tensor = |rng: &mut Rng, lead: &[usize], matrix: [usize; 2]| {
                    let shape: Vec<usize> = lead.iter().copied().chain(matrix).collect();
                    Tensor::with_layout(DType::F32, &shape, padding, 1).normal(rng, 1.0)
                };
                let [a_matrix, b_matrix] = [exchanged(&[m, k], transpose_a), exchanged(&[k, n], transpose_b)];
                let a = tensor(&mut rng, a_lead, [a_matrix[0], a_matrix[1]]);
                let b = tensor(&mut rng, b_lead, [b_matrix[0], b_matrix[1]]);
                let c = tensor(&mut rng, c_lead, [m, n]);
                let outputs = run_everywhere(|level, threads| {
                    let c = c.clone();
                    run_with(&Gemm::new(transpose_a, transpose_b, a.view(), b.view(), c.view()), level, threads);
                    vec![c]
                });
                let (a, b) = (a.values(), b.values());
                let mut expected = vec![];
                for index in 0..c_lead.iter().product() {
                    // Where the matrix at `index` of c's batch lies in a tensor with these leading dimensions.
                    let offset = |lead: &[usize], size: usize| {
                        let (mut rest, mut at, mut step) = (index, 0, size);
                        for d in (0..lead.len()).rev() {
                            at += if lead[d] == 1 { 0 } else { rest % c_lead[d] * step };
                            rest /= c_lead[d];
                            step *= lead[d];
                        }
                        at..at + size
                    };
                    let (a, b) = (&a[offset(a_lead, m * k)], &b[offset(b_lead, k * n)]);
                    expected.extend(reference::product([m, n, k], transposes, a, b));
                }
                for (level, outputs) in outputs {
                    let what = format!("{a_lead:?} {b_lead:?} {transposes:?} {m} {padding} {}", level.name());
                    assert_each_close(&what, &outputs[0], &expected, 1e-6, |_| 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let mut rng = Rng(6);
    for dtype in DType::FLOATS {
        let mut case = Case::new(&mut rng, [61, 70, 600], [false, true], dtype, DType::F32);
        // cuBLASLt promises no such thing.
        case.implementation = Implementation::Own;
        for level in targets() {
            let all = case.run(level, 1).remove(0).bits();
            for row in [0, 13, 14, 60] {
                let a = Tensor::new(dtype, &[1, 600]).fill(|i| case.a.get(row * 600 + i));
                let c = Tensor::new(DType::F32, &[1, 70]);
                let op = Gemm {
                    implementation: case.implementation,
                    ..Gemm::new(false, true, a.view(), case.b.view(), c.view())
                };
                run_with(&op, level, 2);
                assert!(c.bits() == all[row * 70..][..70], "{dtype} {} row {row}", level.name());
            }
        }
    }
}

#[test]
fn not_a_number_and_infinity_reach_exactly_their_rows_and_columns() {
    let mut rng = Rng(7);
    for dtype in DType::FLOATS {
        for transposes in TRANSPOSES {
            let mut case = Case::new(&mut rng, [20, 40, 33], transposes, dtype, DType::F32);
            let at = |i: usize, l: usize| if transposes[0] { l * 20 + i } else { i * 33 + l };
            case.a.set(at(3, 32), f64::NAN);
            case.a.set(at(5, 0), f64::INFINITY);
            case.a.set(at(6, 1), f64::NEG_INFINITY);
            let expected = reference::product(case.dims, transposes, &case.a.values(), &case.b.values());
            assert_eq!(expected.iter().filter(|x| x.is_nan()).count(), 40);
            case.check("special");
        }
    }
}

#[test]
fn without_k_the_product_is_zero() {
    let mut case = Case::new(&mut Rng(8), [5, 20, 0], [false, false], DType::BF16, DType::F32);
    case.check("empty sum");
    case.c = Tensor::new(DType::F32, &[5, 20]).normal(&mut Rng(9), 1.0);
    case.beta = 0.5;
    case.bias = Some(Tensor::new(DType::F32, &[20]).normal(&mut Rng(10), 1.0));
    case.check("empty sum");
}

#[test]
fn empty_results_are_fine() {
    for dims in [[0, 5, 3], [5, 0, 3], [0, 0, 0]] {
        Case::new(&mut Rng(11), dims, [false, false], DType::F32, DType::F32).check("empty");
    }
    let (a, b, c) = ([0, 2, 3], [3, 4], [0, 2, 4]);
    let [a, b, c] = [&a[..], &b[..], &c[..]].map(|shape| Tensor::new(DType::F16, shape));
    for level in targets() {
        run_with(&Gemm::new(false, false, a.view(), b.view(), c.view()), level, 2);
    }
}

#[test]
fn denormal_inputs_count_exactly_or_within_the_stated_error() {
    let mut rng = Rng(12);
    let dims = [15, 33, 40];
    let mut case = Case::new(&mut rng, dims, [false, true], DType::BF16, DType::F32);
    for i in 0..case.a.numel() {
        case.a.set(i, rng.normal() * 2f64.powi(-130));
    }
    let product = reference::product(dims, case.transposes, &case.a.values(), &case.b.values());
    let most = |t: &Tensor| t.values().into_iter().fold(0.0, |x: f64, y| x.max(y.abs()));
    let stated = 40.0 * 2f64.powi(-126) * (most(&case.a) + most(&case.b) + 1.0);
    for (compute, absolute) in [(Compute::Default, stated), (Compute::ExactF32, 44.0 * 2f64.powi(-149))] {
        case.compute = compute;
        for (level, c) in run_everywhere(|level, threads| case.run(level, threads)) {
            let what = format!("{compute:?} {}", level.name());
            assert_each_close(&what, &c[0], &product, 0.0, |_| absolute);
        }
    }
}

#[test]
fn exact_compute_does_not_use_the_dot_product() {
    if !Level::Avx512Bf16.is_available() {
        return;
    }
    let mut case = Case::new(&mut Rng(13), [20, 40, 300], [true, false], DType::BF16, DType::F32);
    let widened = case.run(Level::Avx512, 1).remove(0).bits();
    assert!(case.run(Level::Avx512Bf16, 1).remove(0).bits() != widened);
    case.compute = Compute::ExactF32;
    assert!(case.run(Level::Avx512Bf16, 1).remove(0).bits() == widened);
}

#[test]
fn the_workspace_is_bounded() {
    // Only shapes are looked at: the tensors need not exist.
    // SAFETY: only check and workspace see it, and they read no element.
    let tensor = |shape: &[usize; 2]| unsafe {
        View::new("tensor", std::ptr::without_provenance_mut(1 << 20), DType::BF16, shape, &[shape[1], 1]).unwrap()
    };
    let (a, b, c) = (tensor(&[1 << 16, 1 << 14]), tensor(&[1 << 17, 1 << 14]), tensor(&[1 << 16, 1 << 17]));
    for workers in [1, 2, 64] {
        let bytes = Gemm::new(false, true, a, b, c).workspace(workers);
        assert!(bytes <= workers * (3 << 20), "{bytes} bytes for {workers} workers");
    }
}

#[test]
fn refuses_bad_arguments() {
    let t = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    let (a, b, c) = (t(DType::BF16, &[4, 6]), t(DType::BF16, &[6, 8]), t(DType::BF16, &[4, 8]));
    let good = Gemm::new(false, false, a.view(), b.view(), c.view());
    let refused = |op: Gemm<'_>| op.check().unwrap_err().argument;
    good.check().unwrap();

    let (half, single, words) = (t(DType::F16, &[6, 8]), t(DType::F32, &[4, 8]), t(DType::I32, &[4, 6]));
    assert_eq!(refused(Gemm { a: words.view(), ..good }), "a");
    assert_eq!(refused(Gemm { b: half.view(), ..good }), "b");
    assert_eq!(refused(Gemm { c: words.view(), ..good }), "c");
    Gemm { c: single.view(), ..good }.check().unwrap();

    let vector = t(DType::BF16, &[6]);
    assert_eq!(refused(Gemm { a: vector.view(), ..good }), "a");
    assert_eq!(refused(Gemm { b: vector.view(), ..good }), "b");
    assert_eq!(refused(Gemm { c: vector.view(), ..good }), "c");
    assert_eq!(refused(Gemm { transpose_a: true, ..good }), "b");
    assert_eq!(refused(Gemm { transpose_b: true, ..good }), "b");
    assert_eq!(refused(Gemm { c: t(DType::BF16, &[4, 9]).view(), ..good }), "c");
    assert_eq!(
        refused(Gemm { c: t(DType::BF16, &[2, 4, 8]).view(), a: t(DType::BF16, &[3, 4, 6]).view(), ..good }),
        "a"
    );
    assert_eq!(refused(Gemm { b: t(DType::BF16, &[3, 6, 8]).view(), ..good }), "b");

    // SAFETY: inside the tensor, or refused by check, which reads no element.
    let strided = |tensor: &Tensor, shape: &[usize], stride: &[usize]| unsafe {
        View::new("strided", tensor.view().data(), DType::BF16, shape, stride).unwrap()
    };
    let wide = t(DType::BF16, &[16, 16]);
    assert_eq!(refused(Gemm { a: strided(&wide, &[4, 6], &[16, 2]), ..good }), "a");
    assert_eq!(refused(Gemm { b: strided(&wide, &[6, 8], &[1, 16]), ..good }), "b");
    assert_eq!(refused(Gemm { c: strided(&wide, &[4, 8], &[4, 1]), ..good }), "c");
    assert_eq!(refused(Gemm { alpha: f32::NAN, ..good }), "alpha");
    assert_eq!(refused(Gemm { beta: f32::INFINITY, ..good }), "beta");

    let (bias, long, wrong) = (t(DType::F32, &[8]), t(DType::F32, &[9]), t(DType::F16, &[8]));
    assert_eq!(refused(Gemm { bias: Some(long.view()), ..good }), "bias");
    assert_eq!(refused(Gemm { bias: Some(wrong.view()), ..good }), "bias");
    let pre = t(DType::BF16, &[4, 8]);
    let backward = Gemm { activation: Activation::GeluExactBackward, pre_activation: Some(pre.view()), ..good };
    backward.check().unwrap();
    assert_eq!(refused(Gemm { bias: Some(bias.view()), ..backward }), "bias");
    assert_eq!(refused(Gemm { pre_activation: None, ..backward }), "pre_activation");
    assert_eq!(refused(Gemm { activation: Activation::None, ..backward }), "pre_activation");
    assert_eq!(refused(Gemm { pre_activation: Some(single.view()), ..backward }), "pre_activation");
    assert_eq!(refused(Gemm { pre_activation: Some(half.view()), ..backward }), "pre_activation");

    // Overlap: c with each input, a written pre_activation with everything.
    let inside = |columns: usize, rows: usize| strided(&wide, &[rows, columns], &[columns, 1]);
    assert_eq!(refused(Gemm { a: inside(6, 4), c: inside(8, 4), ..good }), "c");
    assert_eq!(refused(Gemm { b: inside(8, 6), c: inside(8, 4), ..good }), "c");
    let row = strided(&wide, &[8], &[1]);
    assert_eq!(refused(Gemm { bias: Some(row), c: inside(8, 4), ..good }), "c");
    let forward = Gemm { activation: Activation::GeluTanh, pre_activation: Some(inside(8, 4)), ..good };
    forward.check().unwrap();
    assert_eq!(refused(Gemm { a: inside(6, 4), ..forward }), "pre_activation");
    assert_eq!(refused(Gemm { b: inside(8, 6), ..forward }), "pre_activation");
    assert_eq!(refused(Gemm { c: inside(8, 4), ..forward }), "pre_activation");
    assert_eq!(refused(Gemm { bias: Some(row), ..forward }), "pre_activation");
    // SAFETY: check refuses it and reads no element.
    let shifted = unsafe { View::new("c", wide.view().data().add(2), DType::BF16, &[4, 8], &[8, 1]).unwrap() };
    assert_eq!(refused(Gemm { c: shifted, pre_activation: Some(inside(8, 4)), ..backward }), "c");
    assert_eq!(refused(Gemm { pre_activation: Some(strided(&wide, &[4, 8], &[4, 1])), ..forward }), "pre_activation");
}

#[test]
fn any_number_of_workers_gives_the_same_bits() {
    let mut rng = Rng(11);
    for (dtype, c_dtype) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::F16, DType::F32)] {
        for (dims, transposes) in [([397, 211, 521], [false, true]), ([193, 601, 33], [true, false])] {
            for activation in [Activation::GeluTanh, Activation::GeluExactBackward] {
                let [m, n, _] = dims;
                let mut case = Case::new(&mut rng, dims, transposes, dtype, c_dtype);
                (case.alpha, case.beta, case.activation) = (0.25, -0.5, activation);
                case.c = Tensor::with_layout(c_dtype, &[m, n], 1, 1).normal(&mut rng, 1.0);
                case.pre_activation = Some(Tensor::with_layout(c_dtype, &[m, n], 2, 3).normal(&mut rng, 2.0));
                if activation == Activation::GeluTanh {
                    case.bias = Some(Tensor::with_layout(dtype, &[n], 0, 1).normal(&mut rng, 1.0));
                }
                for level in levels() {
                    let one = case.run(level, 1);
                    // From large rectangles to the least, and to more workers than there are rectangles.
                    for threads in [3, 7, 40] {
                        for (one, many) in one.iter().zip(case.run(level, threads)) {
                            assert!(one.bits() == many.bits(), "{dtype} {dims:?} {} {threads}", level.name());
                        }
                    }
                }
            }
        }
    }
}
