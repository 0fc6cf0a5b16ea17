use crate::device::cuda;
use crate::harness::{
    Rng, Tensor, assert_close, assert_each_close, assert_same, central_difference, epsilon, half_denormal, levels,
    run_everywhere, run_with, targets,
};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::gemm::reference::product;
use scalert_kernels::ops::linear_cross_entropy::{LinearCrossEntropy, reference};
use scalert_kernels::view::View;

struct Case {
    dims: [usize; 3],
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: i32,
    loss_scale: Option<Tensor>,
    old_dweight: Tensor,
    accumulate: bool,
}

const GRADIENT_SCALE: f32 = 0.125;

impl Case {
    fn new(rng: &mut Rng, dims: [usize; 3], dtype: DType, dweight: DType) -> Case {
        let [n, v, c] = dims;
        let tensor = |rng: &mut Rng, dtype, shape: [usize; 2]| {
            let (padding, offset) = (rng.below(4), rng.below(4));
            Tensor::with_layout(dtype, &shape, padding, offset).normal(rng, 1.0)
        };
        Case {
            dims,
            x: tensor(rng, dtype, [n, c]),
            weight: tensor(rng, dtype, [v, c]),
            targets: Tensor::with_layout(DType::I32, &[n], 0, 1).fill(|_| rng.below(v) as f64),
            ignore_index: 0,
            loss_scale: None,
            old_dweight: tensor(rng, dweight, [v, c]).fill(|_| f64::NAN),
            accumulate: false,
        }
    }

    fn op<'a>(&'a self, losses: &'a Tensor) -> LinearCrossEntropy<'a> {
        LinearCrossEntropy {
            x: self.x.view(),
            weight: self.weight.view(),
            targets: self.targets.view(),
            ignore_index: self.ignore_index,
            gradient_scale: GRADIENT_SCALE,
            loss_scale: self.loss_scale.as_ref().map(Tensor::view),
            losses: losses.view(),
            dx: None,
            dweight: None,
            accumulate_dweight: self.accumulate,
        }
    }

    fn check(&self, what: &str) {
        let dims @ [n, v, c] = self.dims;
        let dtype = self.x.dtype();
        let what = format!("{what} {dims:?} {dtype} {}", self.old_dweight.dtype());
        let outputs = run_everywhere(|level, threads| {
            let (losses, alone) = (Tensor::new(DType::F32, &[n]), Tensor::new(DType::F32, &[n]));
            let dx = Tensor::with_layout(dtype, &[n, c], 1, 1);
            let dweight = self.old_dweight.clone();
            run_with(&self.op(&alone), level, threads);
            let (dx_view, dweight_view) = (dx.view(), dweight.view());
            let op = LinearCrossEntropy { dx: Some(dx_view), dweight: Some(dweight_view), ..self.op(&losses) };
            run_with(&op, level, threads);
            assert!(alone.bits() == losses.bits(), "{what}: losses alone differ");
            vec![losses, dx, dweight]
        });

        let (x, weight) = (self.x.values(), self.weight.values());
        let targets: Vec<i32> = self.targets.values().into_iter().map(|t| t as i32).collect();
        let scale = f64::from(GRADIENT_SCALE) * self.loss_scale.as_ref().map_or(1.0, |scale| scale.get(0));
        let run = |scale| reference::linear_cross_entropy(dims, &x, &weight, &targets, self.ignore_index, scale);
        let (losses, dx, mut dweight) = run(scale);
        let old = self.old_dweight.values();
        if self.accumulate {
            dweight.iter_mut().zip(&old).for_each(|(x, old)| *x += old);
        }

        // The contract's tolerances, carried through the products.
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (x_abs, weight_abs) = (abs(&x), abs(&weight));
        let unit = epsilon(DType::F32);
        let logits = product([n, v, c], [false, true], &x, &weight);
        let largest =
            |i: usize| (0..c).map(|l| x_abs[i * c + l]).sum::<f64>() * weight_abs.iter().fold(0.0, |a, b| b.max(a));
        let logit_error: Vec<f64> = (0..n).map(|i| (c as f64 + 4.0) * unit * largest(i)).collect();
        let (_, d) =
            scalert_kernels::ops::cross_entropy::reference::cross_entropy(&logits, &targets, self.ignore_index, 1.0);
        let ignored = |i: usize| (0..v).all(|j| d[i * v + j] == 0.0);
        let d_error = |(ij, d): (usize, &f64)| match ignored(ij / v) {
            true => 0.0,
            false => 2.0 * epsilon(dtype) * d.abs() + 16.0 * unit + 4.0 * logit_error[ij / v] + half_denormal(dtype),
        };
        let d_errors: Vec<f64> = d.iter().enumerate().map(d_error).collect();
        let d_abs = abs(&d);
        let bound = |dims: [usize; 3], transpose: bool, other: &[f64], stored: DType| -> Vec<f64> {
            let rounding = (dims[2] as f64 + 4.0) * unit;
            let error = product(dims, [transpose, false], &d_errors, other);
            let sums = product(dims, [transpose, false], &d_abs, other);
            error.iter().zip(sums).map(|(e, s)| scale.abs() * (e + rounding * s) + half_denormal(stored)).collect()
        };
        let dx_bound = bound([n, c, v], false, &weight_abs, dtype);
        let mut dweight_bound = bound([v, c, n], true, &x_abs, self.old_dweight.dtype());
        if self.accumulate {
            dweight_bound.iter_mut().zip(&old).for_each(|(bound, old)| *bound += 4.0 * unit * old.abs());
        }
        for (level, outputs) in outputs {
            let what = format!("{what} {}", level.name());
            assert_each_close(&format!("{what} losses"), &outputs[0], &losses, 8.0 * unit, |i| {
                8.0 * unit + 2.0 * logit_error[i]
            });
            assert_each_close(&format!("{what} dx"), &outputs[1], &dx, epsilon(dtype), |i| dx_bound[i]);
            let rounding = epsilon(self.old_dweight.dtype());
            assert_each_close(&format!("{what} dweight"), &outputs[2], &dweight, rounding, |i| dweight_bound[i]);
        }
    }
}

const DTYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::BF16, DType::BF16),
    (DType::BF16, DType::F32),
    (DType::F16, DType::F16),
    (DType::F16, DType::F32),
];

#[test]
fn matches_the_reference() {
    let mut rng = Rng(1);
    for (dtype, dweight) in DTYPES {
        for dims in [[1, 1, 1], [2, 3, 5], [17, 33, 7], [15, 130, 16], [70, 31, 40]] {
            let mut case = Case::new(&mut rng, dims, dtype, dweight);
            case.check("plain");
            case.accumulate = true;
            case.old_dweight = case.old_dweight.fill(|_| rng.normal());
            case.loss_scale = Some(Tensor::new(DType::F32, &[1]).fill(|_| 64.0));
            case.ignore_index = case.targets.get(0) as i32;
            let last = dims[0] - 1;
            case.targets.set(last, -7.0);
            case.check("scaled, accumulated, some ignored");
        }
    }
}

#[test]
fn rows_beyond_the_shared_memory_of_a_device_match() {
    Case::new(&mut Rng(11), [2, 60_001, 1], DType::BF16, DType::F32).check("long");
}

#[test]
fn chunks_of_rows_add_up() {
    // On the CPU, 64 MiB of logits are 167 rows of 100000: 180 rows are two chunks, of equal size.
    const CHUNK: usize = 90;
    let [n, v, c] = [180, 100_000, 2];
    let case = Case::new(&mut Rng(2), [n, v, c], DType::BF16, DType::BF16);
    let rows = |tensor: &Tensor, rows: std::ops::Range<usize>| {
        let view = tensor.view();
        let shape: Vec<usize> = std::iter::once(rows.len()).chain(view.shape()[1..].iter().copied()).collect();
        // SAFETY: rows of the view are asked for, so they begin inside it.
        let data = unsafe { view.data().add(rows.start * view.stride()[0] * view.dtype().size()) };
        // SAFETY: as above: whole rows of the view.
        unsafe { View::new("rows", data, view.dtype(), &shape, view.stride()).unwrap() }
    };
    for level in levels() {
        let run = |cuts: &[usize], threads: usize| {
            let (losses, dx) = (Tensor::new(DType::F32, &[n]), Tensor::new(DType::BF16, &[n, c]));
            let dweight = case.old_dweight.clone();
            for cut in cuts.windows(2) {
                let part = cut[0]..cut[1];
                let op = LinearCrossEntropy {
                    x: rows(&case.x, part.clone()),
                    targets: rows(&case.targets, part.clone()),
                    losses: rows(&losses, part.clone()),
                    dx: Some(rows(&dx, part.clone())),
                    dweight: Some(dweight.view()),
                    accumulate_dweight: part.start > 0,
                    ..case.op(&losses)
                };
                run_with(&op, level, threads);
            }
            [losses, dx, dweight].map(|tensor| tensor.bits())
        };
        assert!(run(&[0, n], 2) == run(&[0, CHUNK, n], 1), "{}", level.name());
    }
}

#[test]
fn the_gradient_of_x_may_overwrite_x() {
    let case = Case::new(&mut Rng(3), [20, 40, 9], DType::BF16, DType::F32);
    for level in targets() {
        let run = |x: &Tensor, dx: &Tensor| {
            let (losses, dweight) = (Tensor::new(DType::F32, &[20]), case.old_dweight.clone());
            let op = case.op(&losses);
            let op = LinearCrossEntropy { x: x.view(), dx: Some(dx.view()), dweight: Some(dweight.view()), ..op };
            run_with(&op, level, 2);
            (dx.bits(), dweight.bits())
        };
        let x = case.x.clone();
        assert!(run(&x, &x) == run(&case.x, &Tensor::new(DType::BF16, &[20, 9])), "{}", level.name());
    }
}

#[test]
fn an_infinite_loss_scale_or_input_gives_no_finite_gradient() {
    let mut case = Case::new(&mut Rng(4), [5, 20, 3], DType::F16, DType::F32);
    case.x.set(4, f64::INFINITY);
    for level in targets() {
        let (losses, dx) = (Tensor::new(DType::F32, &[5]), Tensor::new(DType::F16, &[5, 3]));
        let dweight = case.old_dweight.clone();
        let views = (Some(dx.view()), Some(dweight.view()));
        run_with(&LinearCrossEntropy { dx: views.0, dweight: views.1, ..case.op(&losses) }, level, 1);
        assert!(losses.get(1).is_nan() && (3..6).all(|i| dx.get(i).is_nan()));
        assert!((0..5).all(|i| i == 1 || losses.get(i).is_finite() && dx.get(3 * i).is_finite()));
        assert!((0..60).all(|i| dweight.get(i).is_nan()), "{}", level.name());
        let infinite = Tensor::new(DType::F32, &[]).fill(|_| f64::INFINITY);
        let op =
            LinearCrossEntropy { loss_scale: Some(infinite.view()), dx: views.0, dweight: views.1, ..case.op(&losses) };
        run_with(&op, level, 1);
        assert!((0..15).all(|i| !dx.get(i).is_finite()), "{}", level.name());
    }
}

#[test]
fn without_rows_the_gradient_of_the_weight_is_zero() {
    for accumulate in [false, true] {
        let mut case = Case::new(&mut Rng(5), [1, 6, 4], DType::F16, DType::F32);
        let old = case.old_dweight.fill(|i| i as f64);
        case.old_dweight = old.clone();
        case.accumulate = accumulate;
        (case.dims[0], case.x, case.targets) = (0, Tensor::new(DType::F16, &[0, 4]), Tensor::new(DType::I32, &[0]));
        case.check("no rows");
        let (losses, dx) = (Tensor::new(DType::F32, &[0]), Tensor::new(DType::F16, &[0, 4]));
        for level in targets() {
            let dweight = old.clone();
            let (dx, dweight_view) = (Some(dx.view()), Some(dweight.view()));
            run_with(&LinearCrossEntropy { dx, dweight: dweight_view, ..case.op(&losses) }, level, 2);
            let expected = if accumulate { old.values() } else { vec![0.0; 24] };
            assert_eq!(dweight.values(), expected);
        }
    }
}

#[test]
fn leading_dimensions_of_zero_are_no_rows() {
    let base = Case::new(&mut Rng(10), [1, 6, 4], DType::F32, DType::F32);
    for lead in [&[0, 3][..], &[3, 0], &[2, 0, 3], &[0, 2, 1, 3]] {
        let shape = [lead, &[4]].concat();
        let (x, dx) = (Tensor::new(DType::F32, &shape), Tensor::new(DType::F32, &shape));
        let (targets, losses) = (Tensor::new(DType::I32, lead), Tensor::new(DType::F32, lead));
        for level in crate::harness::targets() {
            let dweight = Tensor::new(DType::F32, &[6, 4]).fill(|i| i as f64);
            let (dx, dweight_view) = (Some(dx.view()), Some(dweight.view()));
            let op = LinearCrossEntropy { x: x.view(), targets: targets.view(), dx, ..base.op(&losses) };
            run_with(&LinearCrossEntropy { dweight: dweight_view, ..op }, level, 2);
            assert_eq!(dweight.values(), [0.0; 24], "{lead:?} {}", level.name());
        }
    }
}

#[test]
fn no_channels_and_no_classes_are_fine() {
    // Without channels every logit is 0.
    Case::new(&mut Rng(6), [3, 5, 0], DType::BF16, DType::F32).check("no channels");
    let empty = |shape: &[usize]| Tensor::new(DType::F32, shape);
    let (x, weight, targets) = (empty(&[3, 4]), empty(&[0, 4]), Tensor::new(DType::I32, &[3]).fill(|_| -1.0));
    let (losses, dx, dweight) = (empty(&[3]), empty(&[3, 4]), empty(&[0, 4]));
    let base = Case::new(&mut Rng(7), [3, 1, 4], DType::F32, DType::F32);
    let op = LinearCrossEntropy {
        x: x.view(),
        weight: weight.view(),
        targets: targets.view(),
        dx: Some(dx.view()),
        dweight: Some(dweight.view()),
        ..base.op(&losses)
    };
    for level in crate::harness::targets() {
        run_with(&op, level, 2);
        assert!(losses.values() == [0.0; 3] && dx.values() == [0.0; 12], "{}", level.name());
    }
}

#[test]
fn gradients_are_the_derivatives() {
    let mut rng = Rng(8);
    let dims @ [n, v, c] = [3, 5, 4];
    let mut values = |count: usize| (0..count).map(|_| rng.normal()).collect::<Vec<f64>>();
    let (x, weight) = (values(n * c), values(v * c));
    let targets = [4, -1, 2];
    let loss = |x: &[f64], weight: &[f64]| {
        reference::linear_cross_entropy(dims, x, weight, &targets, 0, 1.0).0.iter().sum::<f64>() * 0.5
    };
    let (_, dx, dweight) = reference::linear_cross_entropy(dims, &x, &weight, &targets, 0, 0.5);
    for (i, exact) in dx.iter().enumerate() {
        assert!((central_difference(&x, i, 1e-5, |x| loss(x, &weight)) - exact).abs() < 1e-8);
    }
    for (i, exact) in dweight.iter().enumerate() {
        assert!((central_difference(&weight, i, 1e-5, |weight| loss(&x, weight)) - exact).abs() < 1e-8);
    }
}

#[test]
fn the_workspace_is_bounded() {
    // Only shapes are looked at: the tensors need not exist.
    // SAFETY: only check and workspace see it, and they read no element.
    let tensor = |dtype, shape: &[usize]| unsafe {
        let stride = if shape.len() == 2 { vec![shape[1], 1] } else { vec![1] };
        View::new("tensor", std::ptr::without_provenance_mut(1 << 20), dtype, shape, &stride).unwrap()
    };
    let (n, v, c) = (1 << 20, 50_304, 4096);
    let op = LinearCrossEntropy {
        x: tensor(DType::BF16, &[n, c]),
        weight: tensor(DType::BF16, &[v, c]),
        targets: tensor(DType::I32, &[n]),
        ignore_index: 0,
        gradient_scale: 1.0,
        loss_scale: None,
        losses: tensor(DType::F32, &[n]),
        dx: Some(tensor(DType::BF16, &[n, c])),
        dweight: Some(tensor(DType::F32, &[v, c])),
        accumulate_dweight: false,
    };
    for workers in [1, 16] {
        let bytes = op.workspace(workers);
        assert!(bytes <= (64 << 20) + workers * (3 << 20), "{bytes} bytes for {workers} workers");
    }
    if let Some(cuda) = cuda() {
        let bytes = op.cuda_workspace(cuda.properties());
        assert!(bytes <= 384 << 20, "{bytes} bytes on a CUDA device");
    }
}

#[test]
fn leading_dimensions_are_rows_evenly_spaced_or_not() {
    let (b, t, v, c) = (3, 5, 7, 6);
    let mut case = Case::new(&mut Rng(10), [b * t, v, c], DType::F32, DType::F32);
    case.x = Tensor::new(DType::F32, &[b * t, c]).normal(&mut Rng(11), 1.0);
    // The same rows, with one more behind each t of them.
    let spaced = Tensor::new(DType::F32, &[b * (t + 1), c]).fill(|i| match i / c % (t + 1) {
        row if row < t => case.x.get((i / c / (t + 1) * t + row) * c + i % c),
        _ => f64::NAN,
    });
    // SAFETY: all of it lies inside tensors that live until the operation has run.
    let reshape = |view: View<'_>, shape: &[usize], stride: &[usize]| unsafe {
        View::new("view", view.data(), view.dtype(), shape, stride).unwrap()
    };
    for level in targets() {
        let losses = Tensor::new(DType::F32, &[b * t]);
        let (dx, dweight) = (Tensor::new(DType::F32, &[b * t, c]), Tensor::new(DType::F32, &[v, c]));
        let flat = LinearCrossEntropy { dx: Some(dx.view()), dweight: Some(dweight.view()), ..case.op(&losses) };
        run_with(&flat, level, 2);

        let lead_losses = Tensor::new(DType::F32, &[b * t]);
        let (lead_dx, lead_dweight) = (Tensor::new(DType::F32, spaced.shape()), Tensor::new(DType::F32, &[v, c]));
        let lead = LinearCrossEntropy {
            x: reshape(spaced.view(), &[b, t, c], &[(t + 1) * c, c, 1]),
            targets: reshape(case.targets.view(), &[b, t], &[t, 1]),
            losses: reshape(lead_losses.view(), &[b, t], &[t, 1]),
            dx: Some(reshape(lead_dx.view(), &[b, t, c], &[(t + 1) * c, c, 1])),
            dweight: Some(lead_dweight.view()),
            ..flat
        };
        run_with(&lead, level, 2);

        assert_same("losses", &lead_losses, &losses);
        for i in 0..b * t * c {
            let spaced = (i / c / t * (t + 1) + i / c % t) * c + i % c;
            assert_eq!(lead_dx.get(spaced), dx.get(i), "dx {i}");
        }
        // Summed run by run.
        assert_close("dweight", &lead_dweight, &dweight.values(), 1e-5, 1e-6);
    }
}

#[test]
fn refuses_bad_arguments() {
    let mut case = Case::new(&mut Rng(9), [4, 6, 5], DType::BF16, DType::BF16);
    let losses = Tensor::new(DType::F32, &[4]);
    let (dx, dweight) = (Tensor::new(DType::BF16, &[4, 5]), case.old_dweight.clone());
    let wide = Tensor::new(DType::F32, &[64]);
    // SAFETY: inside the tensor, or refused by check, which reads no element.
    let view = |dtype, shape: &[usize], stride: &[usize]| unsafe {
        View::new("view", wide.view().data(), dtype, shape, stride).unwrap()
    };
    {
        let good = LinearCrossEntropy { dx: Some(dx.view()), dweight: Some(dweight.view()), ..case.op(&losses) };
        good.check().unwrap();
        let refused = |op: LinearCrossEntropy<'_>| op.check().unwrap_err().argument;
        type Op<'a> = LinearCrossEntropy<'a>;
        let (bf16, f32, i32) = (DType::BF16, DType::F32, DType::I32);
        assert_eq!(refused(Op { x: view(i32, &[4, 5], &[5, 1]), ..good }), "x");
        assert_eq!(refused(Op { x: view(bf16, &[], &[]), ..good }), "x");
        assert_eq!(refused(Op { x: view(bf16, &[4, 5], &[1, 4]), ..good }), "x");
        assert_eq!(refused(Op { weight: view(f32, &[6, 5], &[5, 1]), ..good }), "weight");
        assert_eq!(refused(Op { weight: view(bf16, &[6, 4], &[4, 1]), ..good }), "weight");
        assert_eq!(refused(Op { weight: view(bf16, &[6, 5], &[1, 6]), ..good }), "weight");
        // Classes that share memory, and more of them than their logits would have.
        let one_channel = Op { x: view(bf16, &[4, 1], &[1, 1]), dx: None, dweight: None, ..good };
        assert_eq!(refused(Op { weight: view(bf16, &[1 << 60, 1], &[0, 1]), ..one_channel }), "weight");
        assert_eq!(refused(Op { targets: view(f32, &[4], &[1]), ..good }), "targets");
        assert_eq!(refused(Op { targets: view(i32, &[5], &[1]), ..good }), "targets");
        assert_eq!(refused(Op { gradient_scale: f32::NAN, ..good }), "gradient_scale");
        assert_eq!(refused(Op { loss_scale: Some(view(bf16, &[1], &[1])), ..good }), "loss_scale");
        assert_eq!(refused(Op { loss_scale: Some(view(f32, &[2], &[1])), ..good }), "loss_scale");
        assert_eq!(refused(Op { losses: view(bf16, &[4], &[1]), ..good }), "losses");
        assert_eq!(refused(Op { losses: view(f32, &[5], &[1]), ..good }), "losses");
        assert_eq!(refused(Op { losses: view(f32, &[4], &[0]), ..good }), "losses");
        assert_eq!(refused(Op { dx: None, ..good }), "dx");
        assert_eq!(refused(Op { dweight: None, ..good }), "dweight");
        assert_eq!(refused(Op { dx: Some(view(f32, &[4, 5], &[5, 1])), ..good }), "dx");
        assert_eq!(refused(Op { dx: Some(view(bf16, &[4, 5], &[4, 1])), ..good }), "dx");
        assert_eq!(refused(Op { dweight: Some(view(DType::F16, &[6, 5], &[5, 1])), ..good }), "dweight");
        assert_eq!(refused(Op { dweight: Some(view(bf16, &[5, 5], &[5, 1])), ..good }), "dweight");
        // Overlap of each output with each input but for dx on x, and with the other outputs.
        let (rows, weights, ids) = (view(bf16, &[4, 5], &[5, 1]), view(bf16, &[6, 5], &[5, 1]), view(i32, &[4], &[1]));
        let (sums, scalar) = (view(f32, &[4], &[1]), Some(view(f32, &[1], &[1])));
        for inputs in [
            Op { x: view(bf16, &[4, 5], &[6, 1]), ..good },
            Op { weight: weights, ..good },
            Op { targets: ids, ..good },
            Op { loss_scale: scalar, ..good },
        ] {
            assert_eq!(refused(Op { losses: sums, ..inputs }), "losses");
            assert_eq!(refused(Op { dx: Some(rows), ..inputs }), "dx");
            assert_eq!(refused(Op { dweight: Some(weights), ..inputs }), "dweight");
        }
        Op { x: rows, dx: Some(rows), ..good }.check().unwrap();
        assert_eq!(refused(Op { losses: sums, dx: Some(rows), ..good }), "dx");
        assert_eq!(refused(Op { losses: sums, dweight: Some(weights), ..good }), "dweight");
        assert_eq!(refused(Op { dx: Some(rows), dweight: Some(weights), ..good }), "dweight");
    }
    case.targets.set(2, 6.0);
    let error = case.op(&losses).check_elements().unwrap_err();
    assert_eq!(error.argument, "targets");
    assert!(error.message.contains("target 6 of row 2"), "{}", error.message);
    case.ignore_index = 6;
    case.op(&losses).check_elements().unwrap();
}
