//! Products by cuBLASLt, or on a machine without a GPU by its stand-in: what is asked of it, and what the own kernels do
//! around it.

use crate::cublaslt::PRODUCTS;
use crate::device::{Cuda, cuda_with_cublas_lt};
use crate::gemm::{Case, TRANSPOSES};
use crate::harness::{Rng, Tensor, assert_each_close};
use scalert_kernels::backend::cuda::Properties;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::gemm::{Activation, Gemm, Implementation, reference};
use std::sync::atomic::Ordering;

/// Relative error of a vendor's GELU; none of a stand-in's, which is exact.
fn coarse(cuda: &Cuda) -> f64 {
    if cuda.emulated { 0.0 } else { 2f64.powi(-9) }
}

/// Runs and checks a case, and returns the name of what ran.
fn check(cuda: &Cuda, case: &Case, what: &str, coarse: f64) -> &'static str {
    let mut name = "";
    let outputs = case.run_by(|op| {
        op.check().unwrap();
        name = op.implementation_on(cuda.device()).unwrap();
        let before = PRODUCTS.load(Ordering::Relaxed);
        cuda.run(op);
        if cuda.emulated {
            assert_eq!(PRODUCTS.load(Ordering::Relaxed) > before, name.starts_with("cuBLASLt"), "{what} {name}");
        }
    });
    for output in &outputs {
        output.assert_guards(what);
    }
    case.check_outputs(what, [(name, &outputs[..])], coarse);
    name
}

#[test]
fn row_major_products_become_column_major_ones() {
    let Some(cuda) = cuda_with_cublas_lt() else { return };
    let mut rng = Rng(1);
    for (dtype, c_dtype) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::F16, DType::F32)] {
        for transposes in TRANSPOSES {
            for dims in [[5, 7, 9], [1, 24, 8], [16, 1, 3]] {
                let case = Case::aligned(&mut rng, dims, transposes, dtype, c_dtype);
                let name = check(cuda, &case, "plain", 0.0);
                assert!(name == "cuBLASLt" || !cuda.emulated, "{name}");
            }
        }
    }
}

#[test]
fn epilogues_are_its_own_or_follow() {
    let Some(cuda) = cuda_with_cublas_lt() else { return };
    let mut rng = Rng(2);
    let activations = [
        Activation::None,
        Activation::GeluTanh,
        Activation::GeluExact,
        Activation::GeluTanhBackward,
        Activation::GeluExactBackward,
    ];
    for (dtype, c_dtype) in [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)] {
        for (alpha, beta) in [(1.0, 0.0), (0.5, -2.0)] {
            for (bias, misaligned) in [(None, 0), (Some(DType::F32), 0), (Some(dtype), 0), (Some(c_dtype), 1)] {
                for activation in activations {
                    let backward = matches!(activation, Activation::GeluTanhBackward | Activation::GeluExactBackward);
                    if backward && bias.is_some() {
                        continue;
                    }
                    for saved in [true, false] {
                        if saved && activation == Activation::None || !saved && backward {
                            continue;
                        }
                        let dims @ [m, n, _] = [11, 21, 19];
                        let mut case = Case::aligned(&mut rng, dims, [false, true], dtype, c_dtype);
                        (case.alpha, case.beta, case.activation) = (alpha, beta, activation);
                        case.implementation = Implementation::Vendor;
                        case.bias =
                            bias.map(|dtype| Tensor::with_layout(dtype, &[n], 0, misaligned).normal(&mut rng, 1.0));
                        if beta != 0.0 {
                            case.c = Tensor::with_layout(c_dtype, &[m, n], 3, 0).normal(&mut rng, 1.0);
                        }
                        case.pre_activation =
                            saved.then(|| Tensor::with_layout(c_dtype, &[m, n], 11, 0).normal(&mut rng, 1.0));
                        let tanh = matches!(activation, Activation::GeluTanh | Activation::GeluTanhBackward);
                        let what = format!("{alpha} {beta} {bias:?} {misaligned} {activation:?} {saved} {c_dtype}");
                        let name = check(cuda, &case, &what, if tanh { coarse(cuda) } else { 0.0 });
                        let fused = bias.is_none_or(|bias| bias == c_dtype && misaligned == 0)
                            && match activation {
                                Activation::None => true,
                                // The stand-in has no GELU of f32.
                                Activation::GeluTanh => c_dtype != DType::F32,
                                Activation::GeluTanhBackward => beta == 0.0 && c_dtype != DType::F32,
                                _ => false,
                            };
                        let expected = if fused { "cuBLASLt" } else { "cuBLASLt, own epilogue" };
                        assert!(name == expected || !cuda.emulated, "{what}: {name}");
                    }
                }
            }
        }
    }
}

#[test]
fn products_pass_through_the_workspace_in_stretches() {
    let Some(cuda) = cuda_with_cublas_lt() else { return };
    // 128 rows at a time, as a row is a quarter of the workspace for them and more.
    let (m, n, k) = (130, 66_000, 1);
    let mut rng = Rng(3);
    let mut case = Case::aligned(&mut rng, [m, n, k], [true, false], DType::BF16, DType::BF16);
    (case.activation, case.implementation) = (Activation::GeluExact, Implementation::Vendor);
    let (a, b) = (case.a.values(), case.b.values());
    let c = case.run_by(|op| cuda.run(op)).remove(0);
    c.assert_guards("stretches");
    for row in [0, 127, 128, 129] {
        let product: Vec<f64> = b.iter().map(|b| a[row] * b).collect();
        let expected = reference::forward(Activation::GeluExact, &product);
        let actual = Tensor::new(DType::F32, &[n]).fill(|i| c.get(row * n + i));
        assert_each_close(&format!("row {row}"), &actual, &expected, 1.0 / 256.0, |_| 1e-6);
    }
}

#[test]
fn what_it_refuses_runs_on_the_own_kernels() {
    let Some(cuda) = cuda_with_cublas_lt() else { return };
    let mut rng = Rng(4);
    for implementation in [Implementation::Auto, Implementation::Vendor] {
        let mut case = Case::new(&mut rng, [5, 9, 33], [false, false], DType::BF16, DType::BF16);
        case.a = Tensor::with_layout(DType::BF16, &[5, 33], 0, 1).normal(&mut rng, 1.0);
        case.implementation = implementation;
        let name = check(cuda, &case, "misaligned", 0.0);
        assert!(name == "own mma" || !cuda.emulated, "{name}");
    }
    let mut case = Case::aligned(&mut rng, [5, 9, 16], [false, false], DType::F32, DType::F32);
    case.implementation = Implementation::Own;
    assert_eq!(check(cuda, &case, "own", 0.0), "own simt");
    let mut case = Case::new(&mut rng, [5, 9, 0], [false, false], DType::F32, DType::F32);
    case.implementation = Implementation::Vendor;
    assert_eq!(check(cuda, &case, "empty sum", 0.0), "own simt");
}

#[test]
fn batches_of_any_strides() {
    let Some(cuda) = cuda_with_cublas_lt() else { return };
    let mut rng = Rng(5);
    let [m, n, k] = [4, 8, 16];
    // Leading dimensions of a, b and c; calls that a batch takes.
    let cases: [(&[usize], &[usize], &[usize]); 6] = [
        (&[3], &[3], &[3]),
        (&[2, 3], &[2, 3], &[2, 3]),
        (&[2, 1], &[2, 3], &[2, 3]),
        (&[1, 3], &[2, 3], &[2, 3]),
        (&[], &[2, 2], &[2, 2]),
        (&[2, 1, 3], &[2, 1, 3], &[2, 1, 3]),
    ];
    for (a_lead, b_lead, c_lead) in cases {
        for activation in [Activation::None, Activation::GeluExact] {
            let tensor = |lead: &[usize], matrix: [usize; 2], padding: usize| {
                let shape: Vec<usize> = lead.iter().copied().chain(matrix).collect();
                Tensor::with_layout(DType::F32, &shape, padding, 0)
            };
            let a = tensor(a_lead, [m, k], 8).normal(&mut rng, 1.0);
            let b = tensor(b_lead, [k, n], 0).normal(&mut rng, 1.0);
            let c = tensor(c_lead, [m, n], 4);
            let op = Gemm {
                activation,
                implementation: Implementation::Vendor,
                ..Gemm::new(false, false, a.view(), b.view(), c.view())
            };
            op.check().unwrap();
            cuda.run(&op);
            c.assert_guards("batch");
            let (a, b) = (a.values(), b.values());
            let mut expected = vec![];
            for index in 0..c_lead.iter().product() {
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
                let product = reference::product([m, n, k], [false, false], a, b);
                expected.extend(reference::forward(activation, &product));
            }
            assert_each_close(&format!("{a_lead:?} {b_lead:?} {activation:?}"), &c, &expected, 1e-6, |_| 1e-5);
        }
    }
}

#[test]
fn without_the_library_only_its_users_are_refused() {
    let Some(plain) = crate::device::cuda().filter(|cuda| cuda.emulated) else { return };
    let mut case = Case::aligned(&mut Rng(6), [4, 8, 8], [false, false], DType::BF16, DType::BF16);
    case.implementation = Implementation::Vendor;
    case.run_by(|op| {
        let error = op.implementation_on(plain.device()).unwrap_err();
        assert!(error.to_string().contains("cuBLASLt"), "{error}");
        assert_eq!(
            Gemm { implementation: Implementation::Auto, ..*op }.implementation_on(plain.device()).unwrap(),
            "own mma"
        );
        // No workspace is asked for in its name.
        let properties: &Properties = plain.properties();
        assert_eq!(op.cuda_workspace(properties), 0);
    });
}
