use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::axpy::{Axpy, reference};

#[test]
fn has_the_bits_of_one_rounding_to_f32() {
    let mut rng = Rng(1);
    for from in DType::FLOATS {
        for to in DType::FLOATS {
            for (shape, padding, offset) in LAYOUTS {
                let alpha = [0.3f32, -1.0, 1e-20, 1e30][rng.below(4)];
                let x = Tensor::with_layout(from, shape, padding, offset).fill(|_| hostile(&mut rng));
                let y = Tensor::with_layout(to, shape, 2, 1).fill(|_| hostile(&mut rng));
                let sum = run_identically(|level, threads| {
                    let y = y.clone();
                    run_with(&Axpy { alpha, x: x.view(), y: y.view() }, level, threads);
                    vec![y]
                });
                let expected = Tensor::new(to, shape).fill(|i| alpha.mul_add(x.get(i) as f32, y.get(i) as f32).into());
                let what = format!("{from} to {to} {shape:?} {alpha}");
                assert_same(&what, &sum[0], &expected);
                let sums = reference::axpy(alpha.into(), &x.values(), &y.values());
                assert_close(&what, &sum[0], &sums, 2.0 * epsilon(to), if to == DType::F16 { 6e-8 } else { 1e-40 });
            }
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let (x, y) = (Tensor::new(DType::BF16, &[2, 8]), Tensor::new(DType::F32, &[2, 8]));
    let good = Axpy { alpha: 1.0, x: x.view(), y: y.view() };
    assert!(good.check().is_ok());
    let refused = |op: Axpy<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Axpy { x: Tensor::new(DType::I32, &[2, 8]).view(), ..good }), "x");
    assert_eq!(refused(Axpy { y: Tensor::new(DType::I32, &[2, 8]).view(), ..good }), "y");
    assert_eq!(refused(Axpy { y: Tensor::new(DType::F32, &[16]).view(), ..good }), "y");
    assert_eq!(refused(Axpy { y: x.view(), ..good }), "y");
}
