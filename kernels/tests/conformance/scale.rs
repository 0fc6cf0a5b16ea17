use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::scale::{Scale, reference};

#[test]
fn has_the_bits_of_the_reference_apart_and_in_place() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in LAYOUTS {
            for alpha in [0.3f32, -1e-20, 1e30, f32::INFINITY, 0.0] {
                let x = Tensor::with_layout(dtype, shape, padding, offset).fill(|_| hostile(&mut rng));
                let outputs = run_identically(|level, threads| {
                    let (y, z) = (Tensor::with_layout(dtype, shape, 2, 1), x.clone());
                    run_with(&Scale { alpha, x: x.view(), y: y.view() }, level, threads);
                    run_with(&Scale { alpha, x: z.view(), y: z.view() }, level, threads);
                    vec![y, z]
                });
                // The f64 product of two f32 is exact.
                let products = reference::scale(alpha.into(), &x.values());
                let expected = Tensor::new(dtype, shape).fill(|i| f64::from(products[i] as f32));
                outputs.iter().for_each(|y| assert_same(&format!("{dtype} {shape:?} {alpha}"), y, &expected));
            }
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let (x, y) = (Tensor::new(DType::F32, &[2, 8]), Tensor::new(DType::F32, &[2, 8]));
    let good = Scale { alpha: 1.0, x: x.view(), y: y.view() };
    assert!(good.check().is_ok());
    let refused = |op: Scale<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Scale { x: Tensor::new(DType::I64, &[2, 8]).view(), ..good }), "x");
    assert_eq!(refused(Scale { y: Tensor::new(DType::F16, &[2, 8]).view(), ..good }), "y");
    assert_eq!(refused(Scale { y: Tensor::new(DType::F32, &[8, 2]).view(), ..good }), "y");
}
