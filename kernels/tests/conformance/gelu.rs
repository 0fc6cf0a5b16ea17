use crate::harness::{
    Rng, Tensor, assert_each_close, central_difference, epsilon, half_denormal, run_everywhere, run_with,
};
use scalert_kernels::dtype::{DType, bf16};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::gelu::{GeluBackward, GeluForward, GeluKind, reference};
use scalert_kernels::view::View;

const KINDS: [GeluKind; 2] = [GeluKind::Exact, GeluKind::Tanh];

/// Element `i` of inputs that cover the curve, its tails and what is not a number.
fn input(rng: &mut Rng, i: usize) -> f64 {
    let special = [
        0.0,
        -0.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e-40,
        -1e-40,
        1e20,
        -1e20,
        3e38,
        -3e38,
        6e4,
        -6e4,
        -14.0,
    ];
    if i % 7 == 3 { special[i / 7 % special.len()] } else { rng.normal() * 3.0 }
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for kind in KINDS {
            for (shape, padding, offset) in [
                (vec![], 0, 0),
                (vec![1], 0, 1),
                (vec![0, 5], 0, 0),
                (vec![3, 0], 0, 0),
                (vec![5, 7], 3, 1),
                (vec![2, 3, 15], 1, 1),
                (vec![4, 16], 0, 0),
                (vec![3, 33], 5, 3),
                (vec![70_001], 0, 1),
                (vec![3, 40_000], 9, 1),
            ] {
                let x = Tensor::with_layout(dtype, &shape, padding, offset).fill(|i| input(&mut rng, i));
                let dy = Tensor::with_layout(dtype, &shape, 0, offset).normal(&mut rng, 1.0);
                compare(kind, &x, &dy, padding, offset);
            }
        }
    }
}

/// Both passes, with outputs of rows so padded, against the reference.
fn compare(kind: GeluKind, x: &Tensor, dy: &Tensor, padding: usize, offset: usize) {
    let (dtype, shape) = (x.dtype(), x.shape());
    let outputs = run_everywhere(|level, threads| {
        let y = Tensor::with_layout(dtype, shape, padding + 1, offset);
        let dx = Tensor::with_layout(dtype, shape, padding, 0);
        run_with(&GeluForward { x: x.view(), kind, y: y.view() }, level, threads);
        run_with(&GeluBackward { x: x.view(), dy: dy.view(), kind, dx: dx.view() }, level, threads);
        vec![y, dx]
    });
    let (e, e32) = (epsilon(dtype), epsilon(DType::F32));
    let (x, dy) = (x.values(), dy.values());
    for (level, out) in outputs {
        let what = format!("{} {dtype} {kind:?} {shape:?}", level.name());
        let y = reference::forward(kind, &x);
        assert_each_close(&format!("{what} y"), &out[0], &y, 2.0 * e, |i| {
            4.0 * e32 * x[i].abs().min(1.0) + half_denormal(dtype)
        });
        let dx = reference::backward(kind, &x, &dy);
        assert_each_close(&format!("{what} dx"), &out[1], &dx, 2.0 * e, |i| {
            16.0 * e32 * dy[i].abs() + half_denormal(dtype)
        });
    }
}

#[test]
fn every_bf16_is_within_the_tolerance() {
    let x = Tensor::new(DType::BF16, &[1 << 16]).fill(|i| bf16::from_bits(i as u16).to_f64());
    let dy = Tensor::new(DType::BF16, &[1 << 16]).fill(|_| 1.0);
    for kind in KINDS {
        compare(kind, &x, &dy, 0, 0);
    }
}

#[test]
fn works_in_place() {
    for kind in KINDS {
        let x = Tensor::with_layout(DType::BF16, &[5, 37], 2, 1).normal(&mut Rng(2), 2.0);
        let dy = Tensor::with_layout(DType::BF16, &[5, 37], 2, 1).normal(&mut Rng(3), 2.0);
        let apart = run_everywhere(|level, threads| {
            let (y, dx) = (x.clone(), dy.clone());
            run_with(&GeluForward { x: x.view(), kind, y: y.view() }, level, threads);
            run_with(&GeluBackward { x: x.view(), dy: dy.view(), kind, dx: dx.view() }, level, threads);
            vec![y, dx]
        });
        let in_place = run_everywhere(|level, threads| {
            let (y, dx) = (x.clone(), dy.clone());
            run_with(&GeluForward { x: y.view(), kind, y: y.view() }, level, threads);
            run_with(&GeluBackward { x: x.view(), dy: dx.view(), kind, dx: dx.view() }, level, threads);
            vec![y, dx]
        });
        for ((_, a), (_, b)) in apart.iter().zip(&in_place) {
            assert!(a[0].bits() == b[0].bits() && a[1].bits() == b[1].bits(), "{kind:?}");
        }
    }
}

#[test]
fn the_gradient_is_the_derivative() {
    for kind in KINDS {
        for x in [-5.0, -2.0, -0.7, -1e-3, 0.0, 0.3, 1.0, 2.5, 6.0] {
            let slope = central_difference(&[x], 0, 1e-5, |x| reference::gelu(kind, x[0]));
            let exact = reference::gelu_gradient(kind, x);
            assert!((slope - exact).abs() < 1e-9, "{kind:?} at {x}: {slope} and {exact}");
        }
    }
}

#[test]
fn refuses_bad_arguments() {
    let kind = GeluKind::Exact;
    let x = Tensor::new(DType::F32, &[4, 6]);
    let y = Tensor::new(DType::F32, &[4, 6]);
    let half = Tensor::new(DType::BF16, &[4, 6]);
    let other = Tensor::new(DType::F32, &[6, 4]);
    let integers = Tensor::new(DType::I32, &[4, 6]);
    let strided =
        // SAFETY: inside the tensor, or refused by check, which reads no element.
        |stride: [usize; 2]| unsafe { View::new("strided", y.view().data(), DType::F32, &[2, 2], &stride).unwrap() };
    let small = Tensor::new(DType::F32, &[2, 2]);
    let forward = |x: View<'_>, y: View<'_>| GeluForward { x, kind, y }.check().unwrap_err().argument;
    assert_eq!(forward(integers.view(), y.view()), "x");
    assert_eq!(forward(strided([1, 2]), small.view()), "x");
    assert_eq!(forward(x.view(), half.view()), "y");
    assert_eq!(forward(x.view(), other.view()), "y");
    assert_eq!(forward(small.view(), strided([1, 1])), "y");
    // SAFETY: check refuses it and reads no element.
    let shifted = unsafe { View::new("y", y.view().data().add(4), DType::F32, &[2, 2], &[2, 1]).unwrap() };
    assert_eq!(forward(strided([2, 1]), shifted), "y");
    let backward =
        |x: View<'_>, dy: View<'_>, dx: View<'_>| GeluBackward { x, dy, kind, dx }.check().unwrap_err().argument;
    assert_eq!(backward(integers.view(), x.view(), y.view()), "x");
    assert_eq!(backward(x.view(), half.view(), y.view()), "dy");
    assert_eq!(backward(x.view(), other.view(), y.view()), "dy");
    assert_eq!(backward(x.view(), x.view(), half.view()), "dx");
    assert_eq!(backward(small.view(), strided([2, 1]), shifted), "dx");
    assert_eq!(backward(strided([2, 1]), small.view(), shifted), "dx");
}
