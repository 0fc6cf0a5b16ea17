use crate::harness::{Rng, Tensor, run_everywhere, run_with};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::add::{Add, reference};
use scalert_kernels::view::View;

fn input(rng: &mut Rng, i: usize) -> f64 {
    let special = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-40, -3e-41, 3e38, 65504.0, 6e-8];
    if i % 5 == 2 { special[rng.below(special.len())] } else { rng.normal() * 3.0 }
}

#[test]
fn has_the_bits_of_the_reference_apart_and_in_place() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in [
            (vec![], 0, 0),
            (vec![1], 0, 1),
            (vec![4, 0], 0, 0),
            (vec![5, 7], 3, 1),
            (vec![2, 2, 3, 17], 1, 1),
            (vec![50_003], 0, 1),
            (vec![3, 20_001], 1, 3),
        ] {
            let a = Tensor::with_layout(dtype, &shape, padding, offset).fill(|i| input(&mut rng, i));
            let b = Tensor::with_layout(dtype, &shape, 0, 0).fill(|i| input(&mut rng, i));
            // Two f32 have an exact f64 sum or one that rounds to the same f32, up to double rounding, which `set`
            // repeats for 16 bits.
            let sums = reference::add(&a.values(), &b.values());
            let expected = Tensor::new(dtype, &shape).fill(|i| f64::from(sums[i] as f32));
            for (level, outputs) in run_everywhere(|level, threads| {
                let y = Tensor::with_layout(dtype, &shape, 2, 1);
                let (in_a, in_b) = (a.clone(), b.clone());
                run_with(&Add { a: a.view(), b: b.view(), y: y.view() }, level, threads);
                run_with(&Add { a: in_a.view(), b: b.view(), y: in_a.view() }, level, threads);
                run_with(&Add { a: a.view(), b: in_b.view(), y: in_b.view() }, level, threads);
                vec![y, in_a, in_b]
            }) {
                for y in &outputs {
                    for i in 0..y.numel() {
                        let (got, want) = (y.get(i), expected.get(i));
                        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                        assert!(same, "{} {dtype} {shape:?} element {i}: {got:e}, not {want:e}", level.name());
                    }
                }
            }
        }
    }
}

#[test]
fn refuses_bad_arguments() {
    let tensor = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    let (a, b, y) = (tensor(DType::F32, &[2, 3]), tensor(DType::F32, &[2, 3]), tensor(DType::F32, &[2, 3]));
    let (half, long) = (tensor(DType::F16, &[2, 3]), tensor(DType::F32, &[3, 3]));
    let integers = tensor(DType::I32, &[2, 3]);
    let refused = |a: View<'_>, b: View<'_>, y: View<'_>| Add { a, b, y }.check().unwrap_err().argument;
    assert_eq!(refused(integers.view(), b.view(), y.view()), "a");
    assert_eq!(refused(a.view(), half.view(), y.view()), "b");
    assert_eq!(refused(a.view(), long.view(), y.view()), "b");
    assert_eq!(refused(a.view(), b.view(), long.view()), "y");
    assert_eq!(refused(a.view(), b.view(), half.view()), "y");
    // SAFETY: inside the tensor, or refused by check, which reads no element.
    let part = |tensor: &Tensor, first: usize| unsafe {
        View::new("part", tensor.view().data().add(first * 4), DType::F32, &[2, 3], &[3, 1]).unwrap()
    };
    assert_eq!(refused(part(&long, 0), b.view(), part(&long, 1)), "y");
    assert_eq!(refused(a.view(), part(&long, 3), part(&long, 1)), "y");
}
