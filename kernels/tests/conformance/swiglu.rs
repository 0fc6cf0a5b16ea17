use crate::harness::{
    Rng, Tensor, assert_close, assert_each_close, central_difference, epsilon, half_denormal, run_everywhere, run_with,
};
use scalert_kernels::dtype::{DType, bf16};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::swiglu::{SwigluBackward, SwigluForward, reference};
use scalert_kernels::view::View;

fn input(rng: &mut Rng, i: usize) -> f64 {
    let special = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-40, -1e-40, 1e30, -1e30, -95.0, 30.0];
    if i % 7 == 3 { special[i / 7 % special.len()] } else { rng.normal() * 3.0 }
}

/// Halves of a packed tensor [.., 2n].
fn halves(packed: &Tensor) -> (View<'_>, View<'_>) {
    let view = packed.view();
    let mut shape = view.shape().to_vec();
    let n = view.width() / 2;
    *shape.last_mut().unwrap() = n;
    // SAFETY: halves of the rows of the view.
    let half = |data| unsafe { View::new("half", data, view.dtype(), &shape, view.stride()).unwrap() };
    (half(view.data()), half(view.data().wrapping_add(n * view.dtype().size())))
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in [
            (vec![], 0, 0),
            (vec![0, 3], 0, 0),
            (vec![5, 7], 3, 1),
            (vec![2, 3, 31], 1, 1),
            (vec![4, 16], 0, 0),
            (vec![33_001], 0, 1),
        ] {
            let gate = Tensor::with_layout(dtype, &shape, padding, offset).fill(|i| input(&mut rng, i));
            let up = Tensor::with_layout(dtype, &shape, 0, 0).normal(&mut rng, 1.0);
            let dy = Tensor::with_layout(dtype, &shape, 1, 1).normal(&mut rng, 1.0);
            compare(&gate, &up, &dy, padding);
        }
    }
}

/// Both passes, with outputs of rows so padded, against the reference.
fn compare(gate: &Tensor, up: &Tensor, dy: &Tensor, padding: usize) {
    let (dtype, shape) = (gate.dtype(), gate.shape());
    let outputs = run_everywhere(|level, threads| {
        let new = || Tensor::with_layout(dtype, shape, padding, 1);
        let (y, dgate, dup) = (new(), new(), new());
        run_with(&SwigluForward { gate: gate.view(), up: up.view(), y: y.view() }, level, threads);
        let op =
            SwigluBackward { gate: gate.view(), up: up.view(), dy: dy.view(), dgate: dgate.view(), dup: dup.view() };
        run_with(&op, level, threads);
        vec![y, dgate, dup]
    });
    let (g, u, d) = (gate.values(), up.values(), dy.values());
    let y = reference::forward(&g, &u);
    let (dgate, dup) = reference::backward(&g, &u, &d);
    let (e, e32) = (epsilon(dtype), epsilon(DType::F32));
    for (level, out) in outputs {
        let what = format!("{} {dtype} {shape:?}", level.name());
        let absolute = half_denormal(dtype) + 5e-36;
        assert_close(&format!("{what} y"), &out[0], &y, 2.0 * e + 4.0 * e32, absolute);
        assert_close(&format!("{what} dup"), &out[2], &dup, 2.0 * e + 4.0 * e32, absolute);
        assert_each_close(&format!("{what} dgate"), &out[1], &dgate, 2.0 * e, |i| {
            absolute + 16.0 * e32 * (d[i] * u[i]).abs()
        });
    }
}

#[test]
fn every_bf16_is_within_the_tolerance() {
    let gate = Tensor::new(DType::BF16, &[1 << 16]).fill(|i| bf16::from_bits(i as u16).to_f64());
    let ones = Tensor::new(DType::BF16, &[1 << 16]).fill(|_| 1.0);
    compare(&gate, &ones, &ones, 0);
}

#[test]
fn packed_halves_and_in_place_give_the_same_bits() {
    let mut rng = Rng(2);
    for dtype in DType::FLOATS {
        let packed = Tensor::with_layout(dtype, &[3, 5, 38], 3, 1).normal(&mut rng, 2.0);
        let dy = Tensor::new(dtype, &[3, 5, 19]).normal(&mut rng, 1.0);
        run_everywhere(|level, threads| {
            let (gate, up) = halves(&packed);
            let y = Tensor::new(dtype, &[3, 5, 19]);
            let (apart, in_place, over_dy) = (Tensor::new(dtype, &[3, 5, 38]), packed.clone(), dy.clone());
            run_with(&SwigluForward { gate, up, y: y.view() }, level, threads);
            let (dgate, dup) = halves(&apart);
            run_with(&SwigluBackward { gate, up, dy: dy.view(), dgate, dup }, level, threads);
            let (dgate, dup) = halves(&in_place);
            run_with(&SwigluBackward { gate: dgate, up: dup, dy: dy.view(), dgate, dup }, level, threads);
            assert!(apart.bits() == in_place.bits(), "{} {dtype}", level.name());
            let over = SwigluBackward { gate, up, dy: over_dy.view(), dgate: over_dy.view(), dup };
            run_with(&SwigluBackward { dup: y.view(), ..over }, level, threads);
            vec![apart, over_dy]
        });
    }
}

#[test]
fn the_gradient_is_the_derivative() {
    for gate in [-6.0, -1.3, 0.0, 0.4, 3.0] {
        let x = [gate, 0.7];
        let y = |x: &[f64]| reference::forward(&x[..1], &x[1..])[0] * 1.5;
        let (dgate, dup) = reference::backward(&x[..1], &x[1..], &[1.5]);
        assert!((central_difference(&x, 0, 1e-5, y) - dgate[0]).abs() < 1e-9, "dgate at {gate}");
        assert!((central_difference(&x, 1, 1e-5, y) - dup[0]).abs() < 1e-9, "dup at {gate}");
    }
}

#[test]
fn refuses_bad_arguments() {
    let new = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    let tensors: Vec<Tensor> = (0..5).map(|_| new(DType::F32, &[2, 4])).collect();
    let (half, wide, integers) = (new(DType::BF16, &[2, 4]), new(DType::F32, &[2, 5]), new(DType::I32, &[2, 4]));
    let view = |i: usize| tensors[i].view();
    let forward = SwigluForward { gate: view(0), up: view(1), y: view(2) };
    let refused = |op: SwigluForward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(SwigluForward { gate: integers.view(), ..forward }), "gate");
    assert_eq!(refused(SwigluForward { up: half.view(), ..forward }), "up");
    assert_eq!(refused(SwigluForward { y: wide.view(), ..forward }), "y");
    let backward = SwigluBackward { gate: view(0), up: view(1), dy: view(2), dgate: view(3), dup: view(4) };
    assert_eq!(backward.check(), Ok(()));
    let refused = |op: SwigluBackward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(SwigluBackward { gate: integers.view(), ..backward }), "gate");
    assert_eq!(refused(SwigluBackward { up: wide.view(), ..backward }), "up");
    assert_eq!(refused(SwigluBackward { dy: half.view(), ..backward }), "dy");
    assert_eq!(refused(SwigluBackward { dgate: half.view(), ..backward }), "dgate");
    assert_eq!(refused(SwigluBackward { dup: wide.view(), ..backward }), "dup");
    assert_eq!(refused(SwigluBackward { dup: view(3), ..backward }), "dup");
    // SAFETY: check refuses it and reads no element.
    let shifted = unsafe { View::new("part", wide.view().data().add(4), DType::F32, &[2, 4], &[5, 1]).unwrap() };
    // SAFETY: check refuses it and reads no element.
    let left = unsafe { View::new("part", wide.view().data(), DType::F32, &[2, 4], &[5, 1]).unwrap() };
    assert_eq!(refused(SwigluBackward { up: left, dgate: shifted, ..backward }), "dgate");
}
