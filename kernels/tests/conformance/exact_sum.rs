//! Exact sums: the words themselves against the definition, at every level, split and permuted.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::exact_sum::{Accumulator, WORDS};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::exact_sum::{ExactSum, read, reference};
use scalert_kernels::view::View;

fn words(accumulator: &Tensor) -> [i64; WORDS] {
    accumulator.bits().iter().map(|b| *b as i64).collect::<Vec<_>>().try_into().unwrap()
}

fn accumulator_of(start: &Accumulator) -> Tensor {
    let mut tensor = Tensor::new(DType::I64, &[WORDS]);
    tensor.set_words(&start.words);
    tensor
}

/// The words that the contract asks for.
fn expected(x: &[f64], square: bool, start: &Accumulator) -> Accumulator {
    let (sums, nonfinite) = reference::block_sums(x, square);
    let mut accumulator = *start;
    sums.iter().for_each(|sum| accumulator.add(*sum));
    accumulator.add_nonfinite(nonfinite);
    accumulator.carry();
    accumulator
}

#[test]
fn words_are_those_of_the_definition() {
    let mut rng = Rng(1);
    let mut start = Accumulator::ZERO;
    start.add(-3.25e7);
    start.add_nonfinite(2);
    start.carry();
    for dtype in DType::FLOATS {
        for (shape, padding, offset) in [
            (&[0][..], 0, 0),
            (&[1], 0, 1),
            (&[7], 0, 0),
            (&[255], 0, 3),
            (&[256], 0, 0),
            (&[257], 0, 1),
            (&[70_001], 0, 1),
            (&[3, 0], 0, 0),
            (&[5, 300], 0, 0),
            (&[5, 300], 9, 1),
            (&[600, 1], 1, 1),
            (&[300, 512], 8, 1),
            (&[2, 3, 2, 5, 77], 2, 1),
        ] {
            for square in [false, true] {
                for adversarial in [false, true] {
                    let x = Tensor::with_layout(dtype, shape, padding, offset);
                    let x = x.fill(|_| if adversarial { hostile(&mut rng) } else { rng.normal() });
                    let sums = run_identically(|level, threads| {
                        let accumulator = accumulator_of(&start);
                        run_with(&ExactSum { x: x.view(), square, accumulator: accumulator.view() }, level, threads);
                        vec![accumulator]
                    });
                    let expected = expected(&x.values(), square, &start);
                    assert_eq!(words(&sums[0]), expected.words, "{dtype} {shape:?} square {square}");
                }
            }
        }
    }
}

#[test]
fn the_sum_read_is_the_sum_of_blocks_rounded_once() {
    let mut rng = Rng(2);
    for scale in [1.0, 1e-30, 1e30] {
        let x = Tensor::new(DType::F32, &[40_000]).fill(|i| rng.normal() * scale * 2f64.powi((i % 7) as i32 * 3));
        for square in [false, true] {
            let accumulator = accumulator_of(&Accumulator::ZERO);
            run_with(&ExactSum { x: x.view(), square, accumulator: accumulator.view() }, levels()[0], 1);
            let (sums, _) = reference::block_sums(&x.values(), square);
            assert_eq!(read(&words(&accumulator)), (reference::exact_sum(&sums), 0));
        }
    }
}

#[test]
fn any_division_at_blocks_in_any_order_gives_the_same_words() {
    let mut rng = Rng(3);
    let x = Tensor::new(DType::BF16, &[256 * 40 + 19]).fill(|_| hostile(&mut rng));
    let whole = expected(&x.values(), true, &Accumulator::ZERO);
    for target in targets().into_iter().cycle().take(12) {
        let accumulator = accumulator_of(&Accumulator::ZERO);
        let mut pieces: Vec<(usize, usize)> = vec![];
        let mut start = 0;
        while start < x.numel() {
            let end = (start + 256 * (1 + rng.below(9))).min(x.numel());
            pieces.push((start, end));
            start = end;
        }
        while !pieces.is_empty() {
            let (start, end) = pieces.swap_remove(rng.below(pieces.len()));
            // SAFETY: a part of x.
            let part = unsafe { View::new("x", x.view().data().add(2 * start), DType::BF16, &[end - start], &[1]) };
            run_with(&ExactSum { x: part.unwrap(), square: true, accumulator: accumulator.view() }, target, 1);
        }
        assert_eq!(words(&accumulator), whole.words, "{}", target.name());
    }
}

#[test]
fn bad_arguments_are_named() {
    let x = Tensor::new(DType::F32, &[4, 8]).fill(|_| 0.0);
    let accumulator = accumulator_of(&Accumulator::ZERO);
    let good = ExactSum { x: x.view(), square: false, accumulator: accumulator.view() };
    assert!(good.check().is_ok());
    let refused = |op: ExactSum<'_>| op.check().unwrap_err().argument;
    let (ids, short, float) =
        (Tensor::new(DType::I32, &[4]), Tensor::new(DType::I64, &[67]), Tensor::new(DType::F32, &[68]));
    assert_eq!(refused(ExactSum { x: ids.view(), ..good }), "x");
    assert_eq!(refused(ExactSum { accumulator: short.view(), ..good }), "accumulator");
    assert_eq!(refused(ExactSum { accumulator: float.view(), ..good }), "accumulator");
    // SAFETY: inside x's storage; only checked.
    let strided = unsafe { View::new("x", x.view().data(), DType::F32, &[4, 4], &[8, 2]) }.unwrap();
    assert_eq!(refused(ExactSum { x: strided, ..good }), "x");
    // SAFETY: only checked.
    let inside = unsafe { View::new("x", accumulator.view().data(), DType::F32, &[8], &[1]) }.unwrap();
    assert_eq!(refused(ExactSum { x: inside, ..good }), "accumulator");
}
