use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::fill::{Fill, reference};
use scalert_kernels::view::View;

#[test]
fn sets_every_element_and_nothing_else() {
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in LAYOUTS {
            for value in [0.0f32, -0.0, 0.1, 65519.9, 1e-40, f32::NEG_INFINITY, f32::NAN] {
                let y = run_identically(|level, threads| {
                    let y = Tensor::with_layout(dtype, shape, padding, offset);
                    run_with(&Fill { value, y: y.view() }, level, threads);
                    vec![y]
                });
                let values = reference::fill(value.into(), y[0].numel());
                assert_same(
                    &format!("{dtype} {shape:?} {value}"),
                    &y[0],
                    &Tensor::new(dtype, shape).fill(|i| values[i]),
                );
            }
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let y = Tensor::new(DType::F32, &[8]);
    let refused = |y: View<'_>| Fill { value: 1.0, y }.check().unwrap_err().argument;
    assert!(Fill { value: 1.0, y: y.view() }.check().is_ok());
    assert_eq!(refused(Tensor::new(DType::I32, &[8]).view()), "y");
    // SAFETY: only checked.
    let repeated = unsafe { View::new("y", y.view().data(), DType::F32, &[3, 4], &[0, 1]) }.unwrap();
    assert_eq!(refused(repeated), "y");
}
