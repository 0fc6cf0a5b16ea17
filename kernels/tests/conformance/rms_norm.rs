use crate::harness::{
    Rng, Tensor, assert_each_close, central_difference, epsilon, half_denormal, run_everywhere, run_with,
};
use crate::layer_norm::{largest, layouts};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::rms_norm::{RmsNormBackward, RmsNormForward, reference};

const EPSILON: f32 = 1e-6;

fn compare(x: &Tensor, dy: &Tensor, weight: Option<&Tensor>, gradients: DType, accumulate: bool) {
    let (dtype, shape) = (x.dtype(), x.shape().to_vec());
    let (lead, width) = (&shape[..shape.len() - 1], *shape.last().unwrap());
    let rows: usize = lead.iter().product();
    let w = weight.map_or(vec![1.0; width], Tensor::values);
    let (y, mut rstd) = reference::forward(&x.values(), &w, f64::from(EPSILON));
    if width == 0 {
        rstd = vec![1.0 / f64::from(EPSILON).sqrt(); rows];
    }
    let rstd_in = Tensor::with_layout(DType::F32, lead, 1, 1).fill(|i| rstd[i]);
    let old = Tensor::with_layout(gradients, &[width], 0, 1).fill(|i| i as f64 % 5.0 - 2.0);
    let what = format!("{dtype} {shape:?}");
    let outputs = run_everywhere(|level, threads| {
        let (out, out_rstd) = (Tensor::with_layout(dtype, &shape, 3, 1), rstd_in.clone());
        let (dx, dweight) = (Tensor::with_layout(dtype, &shape, 1, 0), old.clone());
        let weight = weight.map(Tensor::view);
        let op = RmsNormForward { x: x.view(), weight, epsilon: EPSILON, y: out.view(), rstd: Some(out_rstd.view()) };
        run_with(&op, level, threads);
        let in_place = x.clone();
        run_with(&RmsNormForward { x: in_place.view(), y: in_place.view(), rstd: None, ..op }, level, threads);
        assert!(in_place.bits() == out.bits(), "{what}: in place differs");
        let op = RmsNormBackward {
            dy: dy.view(),
            x: x.view(),
            weight,
            rstd: rstd_in.view(),
            dx: dx.view(),
            dweight: Some(dweight.view()),
            accumulate,
        };
        run_with(&op, level, threads);
        let in_place = dy.clone();
        run_with(&RmsNormBackward { dy: in_place.view(), dx: in_place.view(), dweight: None, ..op }, level, threads);
        assert!(in_place.bits() == dx.bits(), "{what}: dx in place differs");
        vec![out, out_rstd, dx, dweight]
    });
    let (x, dy, stored) = (x.values(), dy.values(), rstd_in.values());
    let (dx, dweight) = reference::backward(&dy, &x, &w, &stored);
    let keep = if accumulate { 1.0 } else { 0.0 };
    let dweight: Vec<f64> = dweight.iter().zip(old.values()).map(|(s, o)| s + keep * o).collect();
    let (e, e32, n) = (epsilon(dtype), epsilon(DType::F32), width as f64);
    for (level, out) in outputs {
        let what = format!("{what} {}", level.name());
        assert_each_close(&format!("{what} y"), &out[0], &y, 2.0 * e, |i| {
            let xhat = (x[i] * rstd[i / width]).abs();
            (16.0 + n / 32.0) * e32 * (1.0 + xhat) * w[i % width].abs() + half_denormal(dtype)
        });
        assert_each_close(&format!("{what} rstd"), &out[1], &rstd, (8.0 + n / 32.0) * e32, |_| 0.0);
        assert_each_close(&format!("{what} dx"), &out[2], &dx, 2.0 * e, |i| {
            let row = i / width * width..(i / width + 1) * width;
            let g = row.clone().map(|i| (dy[i] * w[i % width]).abs()).fold(0.0, f64::max);
            let r = stored[i / width];
            (32.0 + n / 32.0) * e32 * r * (1.0 + r * largest(&x[row])) * g + half_denormal(dtype)
        });
        assert_each_close(&format!("{what} dweight"), &out[3], &dweight, 2.0 * epsilon(gradients), |j| {
            let sum: f64 = (0..rows).map(|r| (dy[r * width + j] * x[r * width + j] * stored[r]).abs()).sum();
            (96.0 + rows as f64 / 64.0) * e32 * (sum + keep * 2.0) + half_denormal(gradients)
        });
    }
}

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (n, (shape, padding, offset)) in layouts().into_iter().enumerate() {
            let width = *shape.last().unwrap();
            let shift = [0.0, 3.0, -40.0][n % 3];
            let x = Tensor::with_layout(dtype, &shape, padding, offset).fill(|_| shift + rng.normal() * 2.0);
            let dy = Tensor::with_layout(dtype, &shape, 2, 1).normal(&mut rng, 1.0);
            let weight = [None, Some(dtype), Some(DType::F32)][n % 3]
                .map(|kind| Tensor::with_layout(kind, &[width], 0, offset).normal(&mut rng, 1.0));
            let gradients = if n % 2 == 0 { dtype } else { DType::F32 };
            compare(&x, &dy, weight.as_ref(), gradients, n % 3 == 1);
        }
    }
}

#[test]
fn special_rows_follow_the_reference() {
    for dtype in DType::FLOATS {
        for width in [5, 65] {
            let x = Tensor::new(dtype, &[6, width]).fill(|i| match (i / width, i % width) {
                (0, _) => 0.0,
                (1, _) => 1e-40,
                (2, 3) => f64::NAN,
                (3, 3) => f64::INFINITY,
                (4, _) => 60000.0,
                (row, column) => row as f64 - column as f64,
            });
            for (level, out) in run_everywhere(|level, threads| {
                let y = Tensor::new(dtype, &[6, width]);
                let op = RmsNormForward { x: x.view(), weight: None, epsilon: EPSILON, y: y.view(), rstd: None };
                run_with(&op, level, threads);
                vec![y]
            }) {
                // A row with an infinity has rstd 0: finite elements become 0, the infinite one NaN.
                let (y, _) = reference::forward(&x.values(), &vec![1.0; width], f64::from(EPSILON));
                let what = format!("{} {dtype}", level.name());
                assert_each_close(&what, &out[0], &y, 2.0 * epsilon(dtype) + 20.0 * epsilon(DType::F32), |_| {
                    half_denormal(dtype)
                });
            }
        }
    }
}

#[test]
fn the_gradients_are_the_derivatives() {
    let mut rng = Rng(5);
    let mut values = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
    let (x, dy, weight) = (values(15), values(15), values(5));
    let total = |x: &[f64], weight: &[f64]| {
        reference::forward(x, weight, 1e-3).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
    };
    let (_, rstd) = reference::forward(&x, &weight, 1e-3);
    let (dx, dweight) = reference::backward(&dy, &x, &weight, &rstd);
    let close = |what: &str, a: f64, b: f64| assert!((a - b).abs() < 1e-7 * (1.0 + b.abs()), "{what}: {a} and {b}");
    for (i, dx) in dx.iter().enumerate() {
        close("dx", *dx, central_difference(&x, i, 1e-5, |x| total(x, &weight)));
    }
    for (j, dweight) in dweight.iter().enumerate() {
        close("dweight", *dweight, central_difference(&weight, j, 1e-5, |w| total(&x, w)));
    }
}

#[test]
fn refuses_bad_arguments() {
    let new = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    let f = DType::F32;
    let [x, y, dy, dx] = [0; 4].map(|_| new(DType::F16, &[3, 4]));
    let (weight, rstd, dweight) = (new(DType::F16, &[4]), new(f, &[3]), new(f, &[4]));
    let (bf16, five, long, integers) =
        (new(DType::BF16, &[4]), new(f, &[5]), new(DType::F16, &[3, 5]), new(DType::I32, &[3, 4]));
    let forward = RmsNormForward {
        x: x.view(),
        weight: Some(weight.view()),
        epsilon: 1e-6,
        y: y.view(),
        rstd: Some(rstd.view()),
    };
    assert_eq!(forward.check(), Ok(()));
    let refused = |op: RmsNormForward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(RmsNormForward { x: integers.view(), ..forward }), "x");
    assert_eq!(refused(RmsNormForward { weight: Some(bf16.view()), ..forward }), "weight");
    assert_eq!(refused(RmsNormForward { epsilon: 0.0, ..forward }), "epsilon");
    assert_eq!(refused(RmsNormForward { y: long.view(), ..forward }), "y");
    assert_eq!(refused(RmsNormForward { rstd: Some(dweight.view()), ..forward }), "rstd");
    let backward = RmsNormBackward {
        dy: dy.view(),
        x: x.view(),
        weight: Some(weight.view()),
        rstd: rstd.view(),
        dx: dx.view(),
        dweight: Some(dweight.view()),
        accumulate: false,
    };
    assert_eq!(backward.check(), Ok(()));
    let refused = |op: RmsNormBackward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(RmsNormBackward { dy: integers.view(), ..backward }), "dy");
    assert_eq!(refused(RmsNormBackward { x: long.view(), ..backward }), "x");
    assert_eq!(refused(RmsNormBackward { weight: Some(five.view()), ..backward }), "weight");
    assert_eq!(refused(RmsNormBackward { rstd: dweight.view(), ..backward }), "rstd");
    assert_eq!(refused(RmsNormBackward { dx: long.view(), ..backward }), "dx");
    assert_eq!(refused(RmsNormBackward { dweight: Some(bf16.view()), ..backward }), "dweight");
    assert_eq!(refused(RmsNormBackward { dweight: Some(weight.view()), ..backward }), "dweight");
}
