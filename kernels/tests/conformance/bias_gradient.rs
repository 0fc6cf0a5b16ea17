use crate::harness::{
    Rng, Tensor, assert_each_close, central_difference, epsilon, half_denormal, run_identically, run_with,
};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::bias_gradient::{BiasGradient, reference};
use scalert_kernels::view::View;

fn run(dy: &Tensor, dbias: &Tensor, accumulate: bool) -> Tensor {
    let mut outputs = run_identically(|level, threads| {
        let dbias = dbias.clone();
        run_with(&BiasGradient { dy: dy.view(), dbias: dbias.view(), accumulate }, level, threads);
        vec![dbias]
    });
    outputs.remove(0)
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for (dtype, out) in [
        (DType::F32, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::F16, DType::F16),
        (DType::F16, DType::F32),
    ] {
        for (shape, padding, offset) in [
            (vec![1], 0, 1),
            (vec![7], 0, 1),
            (vec![1, 1], 0, 0),
            (vec![31, 5], 2, 1),
            (vec![3, 11, 17], 1, 3),
            (vec![66, 16], 0, 0),
            (vec![2, 1, 2, 35, 33], 5, 1),
            (vec![2051, 40], 0, 1),
            (vec![6, 9000], 3, 1),
        ] {
            let n = shape[shape.len() - 1];
            let dy = Tensor::with_layout(dtype, &shape, padding, offset).normal(&mut rng, 1.0);
            let old = Tensor::with_layout(out, &[n], 0, offset).normal(&mut rng, 1.0);
            let rows = dy.numel() / n;
            let absolute: Vec<f64> = dy.values().into_iter().map(f64::abs).collect();
            for accumulate in [false, true] {
                let start = if accumulate { old.values() } else { vec![0.0; n] };
                let dbias = if accumulate { old.clone() } else { Tensor::new(out, &[n]).fill(|_| f64::NAN) };
                let actual = run(&dy, &dbias, accumulate);
                let magnitude =
                    reference::bias_gradient(n, &absolute, &start.iter().map(|x| x.abs()).collect::<Vec<_>>());
                let terms = rows as f64 / 256.0 + 80.0;
                let expected = reference::bias_gradient(n, &dy.values(), &start);
                assert_each_close(&format!("{dtype} {out} {shape:?}"), &actual, &expected, epsilon(out), |i| {
                    terms * 2f64.powi(-24) * magnitude[i] + half_denormal(out)
                });
            }
        }
    }
}

#[test]
fn special_values_reach_exactly_their_columns() {
    for dtype in DType::FLOATS {
        let mut dy = Tensor::with_layout(dtype, &[70, 19], 1, 1).fill(|_| 1.0);
        for (row, column, x) in
            [(3, 1, f64::NAN), (69, 2, f64::INFINITY), (5, 3, f64::NEG_INFINITY), (6, 3, f64::INFINITY)]
        {
            dy.set(row * 19 + column, x);
        }
        let actual = run(&dy, &Tensor::new(DType::F32, &[19]), false);
        let expected: Vec<f64> = (0..19)
            .map(|column| match column {
                1 | 3 => f64::NAN,
                2 => f64::INFINITY,
                _ => 70.0,
            })
            .collect();
        assert_each_close(&format!("{dtype}"), &actual, &expected, 0.0, |_| 0.0);
    }
}

#[test]
fn denormals_are_summed_exactly() {
    let dy = Tensor::new(DType::BF16, &[40, 33]).fill(|i| 2f64.powi(-133) * (i % 7) as f64);
    let actual = run(&dy, &Tensor::new(DType::F32, &[33]), false);
    let expected = reference::bias_gradient(33, &dy.values(), &[0.0; 33]);
    assert_each_close("denormals", &actual, &expected, 0.0, |_| 0.0);
}

#[test]
fn no_rows_sum_to_zero() {
    let old = Tensor::new(DType::F16, &[5]).fill(|i| i as f64);
    let dy = Tensor::new(DType::F16, &[0, 3, 5]);
    assert_eq!(run(&dy, &old, false).values(), [0.0; 5]);
    assert_eq!(run(&dy, &old, true).values(), old.values());
    assert_eq!(run(&Tensor::new(DType::F32, &[4, 0]), &Tensor::new(DType::F32, &[0]), false).numel(), 0);
}

#[test]
fn is_the_derivative_of_adding_a_bias() {
    // loss = sum of dy * (x + bias), so its slope in each bias is the column sum of dy.
    let dy = Tensor::new(DType::F32, &[9, 4]).normal(&mut Rng(2), 1.0).values();
    let gradient = reference::bias_gradient(4, &dy, &[0.0; 4]);
    for (j, exact) in gradient.iter().enumerate() {
        let loss = |bias: &[f64]| dy.iter().enumerate().map(|(i, dy)| dy * bias[i % 4]).sum();
        assert!((central_difference(&[0.5; 4], j, 1e-3, loss) - exact).abs() < 1e-9);
    }
}

#[test]
fn refuses_bad_arguments() {
    let dy = Tensor::new(DType::BF16, &[4, 6]);
    let dbias = Tensor::new(DType::BF16, &[6]);
    let good = BiasGradient { dy: dy.view(), dbias: dbias.view(), accumulate: false };
    good.check().unwrap();
    let refused = |op: BiasGradient<'_>| op.check().unwrap_err().argument;
    let (words, half, long) =
        (Tensor::new(DType::I32, &[4, 6]), Tensor::new(DType::F16, &[6]), Tensor::new(DType::F32, &[7]));
    // SAFETY: check refuses it and reads no element.
    let strided = |shape: &[usize], stride: &[usize]| unsafe {
        View::new("strided", dy.view().data(), DType::BF16, shape, stride).unwrap()
    };
    assert_eq!(refused(BiasGradient { dy: words.view(), ..good }), "dy");
    assert_eq!(refused(BiasGradient { dy: strided(&[], &[]), ..good }), "dy");
    assert_eq!(refused(BiasGradient { dy: strided(&[2, 6], &[1, 2]), ..good }), "dy");
    assert_eq!(refused(BiasGradient { dbias: half.view(), ..good }), "dbias");
    assert_eq!(refused(BiasGradient { dbias: long.view(), ..good }), "dbias");
    assert_eq!(refused(BiasGradient { dbias: strided(&[6], &[2]), ..good }), "dbias");
    assert_eq!(refused(BiasGradient { dbias: strided(&[6], &[1]), ..good }), "dbias");
}
