use crate::device::cuda;
use crate::harness::{
    Rng, Tensor, assert_each_close, central_difference, epsilon, half_denormal, levels, run_everywhere, run_with,
};
use scalert_kernels::backend::cpu::{Cpu, Inline};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::layer_norm::{LayerNormBackward, LayerNormForward, reference};
use scalert_kernels::view::View;

const EPSILON: f32 = 1e-5;

/// Largest magnitude.
pub fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// Shapes, row padding and offset of the inputs.
pub fn layouts() -> Vec<(Vec<usize>, usize, usize)> {
    vec![
        (vec![1], 0, 0),
        (vec![5], 0, 1),
        (vec![0, 9], 0, 0),
        (vec![4, 0], 0, 0),
        (vec![3, 1], 2, 1),
        (vec![7, 13], 3, 1),
        (vec![2, 3, 16], 0, 0),
        (vec![2, 1, 5, 63], 1, 3),
        (vec![2, 2, 129], 0, 1),
        (vec![40, 768], 8, 0),
        (vec![3, 4100], 0, 1),
        (vec![1500, 33], 0, 1),
    ]
}

struct Case {
    x: Tensor,
    dy: Tensor,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    /// dtype of the parameter gradients, and what they are added to.
    gradients: DType,
    accumulate: bool,
}

fn filled(parameter: &Option<Tensor>, width: usize, absent: f64) -> Vec<f64> {
    parameter.as_ref().map_or(vec![absent; width], Tensor::values)
}

fn compare(what: &str, case: &Case) {
    let (dtype, shape) = (case.x.dtype(), case.x.shape().to_vec());
    let (lead, width) = (&shape[..shape.len() - 1], *shape.last().unwrap());
    let rows: usize = lead.iter().product();
    let (weight, bias) = (filled(&case.weight, width, 1.0), filled(&case.bias, width, 0.0));
    let x = case.x.values();
    let mut forward = reference::forward(&x, &weight, &bias, f64::from(EPSILON));
    if width == 0 {
        forward.mean = vec![0.0; rows];
        forward.rstd = vec![1.0 / f64::from(EPSILON).sqrt(); rows];
    }
    // The backward pass starts from statistics as stored.
    let stored = |values: &[f64]| Tensor::with_layout(DType::F32, lead, 1, 1).fill(|i| values[i]);
    let (mean_in, rstd_in) = (stored(&forward.mean), stored(&forward.rstd));
    let (mean, rstd) = (mean_in.values(), rstd_in.values());
    let dy = case.dy.values();
    let old = Tensor::with_layout(case.gradients, &[width], 0, 1).fill(|i| i as f64 % 5.0 - 2.0);
    let outputs = run_everywhere(|level, threads| {
        let y = Tensor::with_layout(dtype, &shape, 3, 1);
        let (out_mean, out_rstd) = (mean_in.clone(), rstd_in.clone());
        let (dx, dweight, dbias) = (Tensor::with_layout(dtype, &shape, 1, 0), old.clone(), old.clone());
        let op = LayerNormForward {
            x: case.x.view(),
            weight: case.weight.as_ref().map(Tensor::view),
            bias: case.bias.as_ref().map(Tensor::view),
            epsilon: EPSILON,
            y: y.view(),
            mean: Some(out_mean.view()),
            rstd: Some(out_rstd.view()),
        };
        run_with(&op, level, threads);
        let in_place = case.x.clone();
        run_with(
            &LayerNormForward { x: in_place.view(), y: in_place.view(), mean: None, rstd: None, ..op },
            level,
            threads,
        );
        assert!(in_place.bits() == y.bits(), "{what}: in place differs");
        let op = LayerNormBackward {
            dy: case.dy.view(),
            x: case.x.view(),
            weight: case.weight.as_ref().map(Tensor::view),
            mean: mean_in.view(),
            rstd: rstd_in.view(),
            dx: dx.view(),
            dweight: Some(dweight.view()),
            dbias: Some(dbias.view()),
            accumulate: case.accumulate,
        };
        run_with(&op, level, threads);
        let in_place = case.dy.clone();
        let only_dx = LayerNormBackward { dy: in_place.view(), dx: in_place.view(), dweight: None, dbias: None, ..op };
        run_with(&only_dx, level, threads);
        assert!(in_place.bits() == dx.bits(), "{what}: dx in place differs");
        let only = old.clone();
        run_with(&LayerNormBackward { dweight: None, dbias: Some(only.view()), ..op }, level, threads);
        assert!(only.bits() == dbias.bits(), "{what}: dbias alone differs");
        vec![y, out_mean, out_rstd, dx, dweight, dbias]
    });
    let backward = reference::backward(&dy, &x, &weight, &mean, &rstd);
    let (e, e32, w) = (epsilon(dtype), epsilon(DType::F32), width as f64);
    let m = |row: usize| forward.mean[row].abs() * forward.rstd[row];
    let xhat = |i: usize| (x[i] - mean[i / width]) * rstd[i / width];
    let column = |j: usize, f: &dyn Fn(usize) -> f64| (0..rows).map(|r| f(r * width + j).abs()).sum::<f64>();
    let keep = if case.accumulate { 1.0 } else { 0.0 };
    let with_old = |sums: &[f64]| sums.iter().zip(old.values()).map(|(s, o)| s + keep * o).collect::<Vec<_>>();
    let chain = (96.0 + rows as f64 / 64.0) * e32;
    for (level, out) in outputs {
        let what = format!("{what} {dtype} {shape:?} {}", level.name());
        assert_each_close(&format!("{what} y"), &out[0], &forward.y, 2.0 * e, |i| {
            (16.0 + w / 32.0) * e32 * (1.0 + m(i / width)) * (1.0 + xhat(i).abs()) * weight[i % width].abs()
                + half_denormal(dtype)
        });
        let bound = (8.0 + w / 32.0) * e32;
        assert_each_close(&format!("{what} mean"), &out[1], &forward.mean, 0.0, |r| {
            bound * x[r * width..(r + 1) * width].iter().map(|x| x.abs()).sum::<f64>() / w.max(1.0)
                + half_denormal(DType::F32)
        });
        assert_each_close(&format!("{what} rstd"), &out[2], &forward.rstd, 0.0, |r| {
            bound * forward.rstd[r] * (1.0 + m(r))
        });
        assert_each_close(&format!("{what} dx"), &out[3], &backward.dx, 2.0 * e, |i| {
            let r = i / width;
            let row = r * width..(r + 1) * width;
            let spread = row.clone().map(|i| xhat(i).abs()).fold(0.0, f64::max);
            let g = row.map(|i| (dy[i] * weight[i % width]).abs()).fold(0.0, f64::max);
            (32.0 + w / 32.0) * e32 * rstd[r] * (1.0 + spread) * g + half_denormal(dtype)
        });
        let e = epsilon(case.gradients);
        assert_each_close(&format!("{what} dweight"), &out[4], &with_old(&backward.dweight), 2.0 * e, |j| {
            chain * (column(j, &|i| dy[i] * xhat(i)) + keep * 2.0) + half_denormal(case.gradients)
        });
        assert_each_close(&format!("{what} dbias"), &out[5], &with_old(&backward.dbias), 2.0 * e, |j| {
            chain * (column(j, &|i| dy[i]) + keep * 2.0) + half_denormal(case.gradients)
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
            // Parameters absent, of x's dtype, and of f32; gradients of either.
            let kinds = [None, Some(dtype), Some(DType::F32)];
            let parameter = |kind: Option<DType>, rng: &mut Rng| {
                kind.map(|kind| Tensor::with_layout(kind, &[width], 0, offset).normal(rng, 1.0))
            };
            let case = Case {
                x: Tensor::with_layout(dtype, &shape, padding, offset).fill(|_| shift + rng.normal() * 2.0),
                dy: Tensor::with_layout(dtype, &shape, 2, 1).normal(&mut rng, 1.0),
                weight: parameter(kinds[n % 3], &mut rng),
                bias: parameter(kinds[(n + n / 3) % 3], &mut rng),
                gradients: if n % 2 == 0 { dtype } else { DType::F32 },
                accumulate: n % 3 == 1,
            };
            compare("normal", &case);
        }
    }
}

#[test]
fn special_rows_follow_the_reference() {
    for dtype in DType::FLOATS {
        for width in [7, 40, 300] {
            let fill = |tensor: Tensor| {
                tensor.fill(|i| match i / width {
                    // Constant rows: of nothing, and far from 0.
                    0 => 0.0,
                    1 => 1000.0,
                    2 => 1e-40,
                    _ => (i % width) as f64,
                })
            };
            let case = Case {
                x: fill(Tensor::new(dtype, &[4, width])),
                dy: Tensor::new(dtype, &[4, width]).normal(&mut Rng(3), 1.0),
                weight: None,
                bias: None,
                gradients: DType::F32,
                accumulate: false,
            };
            compare("constant", &case);
            // A row that is not finite is NaN throughout, and its neighbours are not.
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let x = Tensor::new(dtype, &[3, width]).fill(|i| if i == 2 * width - 1 { bad } else { i as f64 % 3.0 });
                for (level, out) in run_everywhere(|level, threads| {
                    let y = Tensor::new(dtype, &[3, width]);
                    let op = LayerNormForward {
                        x: x.view(),
                        weight: None,
                        bias: None,
                        epsilon: EPSILON,
                        y: y.view(),
                        mean: None,
                        rstd: None,
                    };
                    run_with(&op, level, threads);
                    vec![y]
                }) {
                    for i in 0..3 * width {
                        assert_eq!(out[0].get(i).is_nan(), i / width == 1, "{} {bad} {i}", level.name());
                    }
                }
            }
        }
    }
}

#[test]
fn tiny_parameters_and_huge_rows_keep_the_tolerance() {
    let mut rng = Rng(7);
    for dtype in [DType::F32, DType::BF16] {
        for parameters in [DType::F32, dtype] {
            let (shape, width) = ([6, 70], 70);
            let small = |values: &'static [f64]| {
                Some(Tensor::new(parameters, &[width]).fill(|j| values[j % values.len()] * (1.0 + j as f64 / 64.0)))
            };
            // Zeros with denormals beside them; denormals; all far above them.
            for (weight, bias) in [
                (small(&[0.0, 1.0]), small(&[1e-40, 0.0, 2e-39])),
                (small(&[1e-39, 1e-33, 0.0]), small(&[0.0])),
                (small(&[1.0, -0.5]), small(&[1e-40, 0.0])),
            ] {
                let x = Tensor::new(dtype, &shape).fill(|i| match i / width {
                    // Squares fit f32; their sum does not.
                    1 => 4e18 * (1.0 + (i % 5) as f64 / 64.0),
                    2 => 1e-39 * rng.normal(),
                    _ => rng.normal(),
                });
                let dy = Tensor::new(dtype, &shape).fill(|i| match i / width {
                    3 => 0.0,
                    4 => 1e-38 * rng.normal(),
                    _ => rng.normal(),
                });
                let case = Case { x, dy, weight, bias, gradients: DType::F32, accumulate: false };
                compare("extreme", &case);
            }
        }
    }
}

#[test]
fn the_gradients_are_the_derivatives() {
    let mut rng = Rng(5);
    let mut values = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
    let (x, dy, weight, bias) = (values(15), values(15), values(5), values(5));
    let total = |x: &[f64], weight: &[f64], bias: &[f64]| {
        reference::forward(x, weight, bias, 1e-3).y.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
    };
    let statistics = reference::forward(&x, &weight, &bias, 1e-3);
    let gradients = reference::backward(&dy, &x, &weight, &statistics.mean, &statistics.rstd);
    let close = |what: &str, a: f64, b: f64| assert!((a - b).abs() < 1e-7 * (1.0 + b.abs()), "{what}: {a} and {b}");
    for i in 0..15 {
        close("dx", gradients.dx[i], central_difference(&x, i, 1e-5, |x| total(x, &weight, &bias)));
    }
    for j in 0..5 {
        close("dweight", gradients.dweight[j], central_difference(&weight, j, 1e-5, |w| total(&x, w, &bias)));
        close("dbias", gradients.dbias[j], central_difference(&bias, j, 1e-5, |b| total(&x, &weight, b)));
    }
}

#[test]
fn refuses_bad_arguments() {
    let new = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    let f = DType::F32;
    let [x, y, dy, dx] = [0; 4].map(|_| new(DType::BF16, &[2, 3, 4]));
    let (weight, bias) = (new(DType::BF16, &[4]), new(f, &[4]));
    let (mean, rstd) = (new(f, &[2, 3]), new(f, &[2, 3]));
    let (dweight, dbias) = (new(f, &[4]), new(DType::BF16, &[4]));
    let (half, five, long) = (new(DType::F16, &[4]), new(f, &[5]), new(DType::BF16, &[2, 3, 5]));
    let (integers, scalar) = (new(DType::I32, &[2, 3, 4]), new(f, &[]));
    let forward = LayerNormForward {
        x: x.view(),
        weight: Some(weight.view()),
        bias: Some(bias.view()),
        epsilon: 1e-5,
        y: y.view(),
        mean: Some(mean.view()),
        rstd: Some(rstd.view()),
    };
    assert_eq!(forward.check(), Ok(()));
    let refused = |op: LayerNormForward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(LayerNormForward { x: integers.view(), ..forward }), "x");
    assert_eq!(refused(LayerNormForward { x: scalar.view(), ..forward }), "x");
    assert_eq!(refused(LayerNormForward { weight: Some(half.view()), ..forward }), "weight");
    assert_eq!(refused(LayerNormForward { bias: Some(five.view()), ..forward }), "bias");
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(refused(LayerNormForward { epsilon, ..forward }), "epsilon");
    }
    assert_eq!(refused(LayerNormForward { y: long.view(), ..forward }), "y");
    assert_eq!(refused(LayerNormForward { mean: Some(bias.view()), ..forward }), "mean");
    assert_eq!(refused(LayerNormForward { rstd: Some(weight.view()), ..forward }), "rstd");
    assert_eq!(refused(LayerNormForward { rstd: Some(mean.view()), ..forward }), "rstd");

    let backward = LayerNormBackward {
        dy: dy.view(),
        x: x.view(),
        weight: Some(weight.view()),
        mean: mean.view(),
        rstd: rstd.view(),
        dx: dx.view(),
        dweight: Some(dweight.view()),
        dbias: Some(dbias.view()),
        accumulate: true,
    };
    assert_eq!(backward.check(), Ok(()));
    let refused = |op: LayerNormBackward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(LayerNormBackward { dy: integers.view(), ..backward }), "dy");
    assert_eq!(refused(LayerNormBackward { x: long.view(), ..backward }), "x");
    assert_eq!(refused(LayerNormBackward { weight: Some(five.view()), ..backward }), "weight");
    assert_eq!(refused(LayerNormBackward { mean: bias.view(), ..backward }), "mean");
    assert_eq!(refused(LayerNormBackward { rstd: x.view(), ..backward }), "rstd");
    assert_eq!(refused(LayerNormBackward { dx: long.view(), ..backward }), "dx");
    assert_eq!(refused(LayerNormBackward { dweight: Some(half.view()), ..backward }), "dweight");
    assert_eq!(refused(LayerNormBackward { dweight: Some(weight.view()), ..backward }), "dweight");
    assert_eq!(refused(LayerNormBackward { dbias: Some(five.view()), ..backward }), "dbias");
    assert_eq!(refused(LayerNormBackward { dbias: Some(dweight.view()), ..backward }), "dbias");
    let shifted: View<'_> =
        // SAFETY: check refuses it and reads no element.
        unsafe { View::new("dx", dy.view().data().add(2), DType::BF16, &[1, 3, 4], &[12, 4, 1]).unwrap() };
    // SAFETY: the first rows of the tensor; check refuses it and reads no element.
    let first = |t: &Tensor| unsafe { View::new("t", t.view().data(), t.dtype(), &[1, 3, 4], &[12, 4, 1]).unwrap() };
    let one = new(f, &[1, 3]);
    let overlapping =
        LayerNormBackward { dy: first(&dy), x: first(&x), mean: one.view(), rstd: one.view(), dx: shifted, ..backward };
    assert_eq!(refused(overlapping), "dx");
}

#[test]
fn rows_of_no_width_need_no_workspace() {
    let rows = || Tensor::new(DType::F32, &[3, 0]);
    let (x, dy, dx, statistic) = (rows(), rows(), rows(), Tensor::new(DType::F32, &[3]).fill(|_| 1.0));
    let parameter = Tensor::new(DType::F32, &[0]);
    let op = LayerNormBackward {
        dy: dy.view(),
        x: x.view(),
        weight: None,
        mean: statistic.view(),
        rstd: statistic.view(),
        dx: dx.view(),
        dweight: Some(parameter.view()),
        dbias: None,
        accumulate: false,
    };
    op.check().unwrap();
    assert_eq!(op.workspace(1), 0);
    for level in levels() {
        op.cpu(&Cpu::new(level, &Inline, &mut []));
    }
    if let Some(cuda) = cuda() {
        assert_eq!(op.cuda_workspace(cuda.properties()), 0);
        cuda.run(&op);
    }
}
