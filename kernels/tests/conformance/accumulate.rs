//! Gradient accumulation: y, the count and the exact sum of squares at every level.

use crate::harness::*;
use scalert_kernels::dtype::DType;
use scalert_kernels::exact_sum::{Accumulator, WORDS};
use scalert_kernels::ops::Op;
use scalert_kernels::ops::accumulate::{Accumulate, reference};
use scalert_kernels::ops::exact_sum::ExactSum;

fn integers(n: usize, value: i64) -> Tensor {
    let mut tensor = Tensor::new(DType::I64, &[n]);
    tensor.set_words(&vec![value; n]);
    tensor
}

#[test]
fn y_count_and_squares_are_exact() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, x_padding, y_padding, offset) in [
            (&[0][..], 0, 0, 0),
            (&[1], 0, 0, 1),
            (&[17], 0, 0, 3),
            (&[255], 0, 0, 1),
            (&[20_011], 0, 0, 1),
            (&[6, 0], 0, 0, 0),
            (&[5, 300], 0, 3, 1),
            (&[5, 300], 9, 0, 1),
            (&[700, 3], 1, 2, 0),
            (&[100, 512], 8, 8, 1),
            (&[2, 3, 2, 5, 77], 2, 1, 1),
        ] {
            for (overwrite, to) in [(false, DType::F32), (true, DType::F32), (false, DType::BF16), (true, DType::BF16)]
            {
                let x = Tensor::with_layout(dtype, shape, x_padding, offset).fill(|_| hostile(&mut rng));
                let y = Tensor::with_layout(to, shape, y_padding, offset).fill(|_| hostile(&mut rng));
                let outputs = |squares: bool| {
                    run_identically(|level, threads| {
                        let (y, nonfinite, sum) = (y.clone(), integers(1, 5), integers(WORDS, 0));
                        let overflow = integers(1, 9);
                        let op = Accumulate {
                            x: x.view(),
                            overwrite,
                            y: y.view(),
                            nonfinite: nonfinite.view(),
                            square_sum: squares.then(|| sum.view()),
                            overflow: squares.then(|| overflow.view()),
                            // Larger than 9 as an unsigned number alone.
                            overflow_mark: u64::MAX - 3,
                        };
                        run_with(&op, level, threads);
                        vec![y, nonfinite, sum, overflow]
                    })
                };
                let what = format!("{dtype} {shape:?} to {to} overwrite {overwrite}");
                // f64 additions of two f32 rounded to f32 round as one f32 addition does.
                let mut values = y.values();
                let nonfinite = reference::accumulate(&x.values(), overwrite, &mut values);
                let expected = y.clone().fill(|i| f64::from(values[i] as f32));
                let alone = integers(WORDS, 0);
                run_with(&ExactSum { x: x.view(), square: true, accumulator: alone.view() }, levels()[0], 1);
                let (with, without) = (outputs(true), outputs(false));
                for outputs in [&with, &without] {
                    assert_same(&what, &outputs[0], &expected);
                    assert_eq!(outputs[1].bits(), [5 + nonfinite], "{what}");
                }
                assert_eq!(with[2].bits(), alone.bits(), "{what}");
                assert_eq!(without[2].bits(), vec![0; WORDS], "{what}");
                assert_eq!(with[3].bits(), [if nonfinite > 0 { u64::MAX - 3 } else { 9 }], "{what}");
                assert_eq!(without[3].bits(), [9], "{what}");
            }
        }
    }
}

#[test]
fn micro_batches_add_their_squares() {
    for target in targets() {
        let mut rng = Rng(2);
        let (y, nonfinite, sum) = (Tensor::new(DType::F32, &[1000]), integers(1, 0), integers(WORDS, 0));
        let mut expected = Accumulator::ZERO;
        for micro in 0..3 {
            let x = Tensor::new(DType::F16, &[1000]).normal(&mut rng, 1.0);
            let op = Accumulate {
                x: x.view(),
                overwrite: micro == 0,
                y: y.view(),
                nonfinite: nonfinite.view(),
                square_sum: Some(sum.view()),
                overflow: None,
                overflow_mark: 0,
            };
            run_with(&op, target, 1);
            let alone = integers(WORDS, 0);
            run_with(&ExactSum { x: x.view(), square: true, accumulator: alone.view() }, levels()[0], 1);
            let words: Vec<i64> = alone.bits().iter().map(|b| *b as i64).collect();
            expected.merge(&Accumulator { words: words.try_into().unwrap() });
        }
        expected.carry();
        assert_eq!(sum.bits(), expected.words.map(|w| w as u64), "{}", target.name());
    }
}

#[test]
fn the_largest_mark_of_an_overflow_stays() {
    for target in targets() {
        let (y, nonfinite, overflow) = (Tensor::new(DType::F32, &[3000]), integers(1, 0), integers(1, 0));
        let finite = Tensor::new(DType::F32, &[3000]).fill(|_| 1.0);
        let (mut early, mut late) = (finite.clone(), finite.clone());
        early.set(0, f64::NAN);
        late.set(2999, f64::INFINITY);
        let marks =
            [(&finite, 9, 0), (&early, 5, 5), (&late, 3, 5), (&late, u64::MAX, u64::MAX), (&early, 7, u64::MAX)];
        for (x, overflow_mark, expected) in marks {
            let op = Accumulate {
                x: x.view(),
                overwrite: true,
                y: y.view(),
                nonfinite: nonfinite.view(),
                square_sum: None,
                overflow: Some(overflow.view()),
                overflow_mark,
            };
            run_with(&op, target, 2);
            assert_eq!(overflow.bits(), [expected], "{}", target.name());
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let (x, y) = (Tensor::new(DType::BF16, &[4, 8]), Tensor::new(DType::F32, &[4, 8]));
    let (nonfinite, sum) = (integers(1, 0), integers(WORDS, 0));
    let good = Accumulate {
        x: x.view(),
        overwrite: false,
        y: y.view(),
        nonfinite: nonfinite.view(),
        square_sum: Some(sum.view()),
        overflow: None,
        overflow_mark: 0,
    };
    assert!(Accumulate { overflow: Some(integers(1, 0).view()), ..good }.check().is_ok());
    assert!(good.check().is_ok());
    let refused = |op: Accumulate<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(Accumulate { x: nonfinite.view(), ..good }), "x");
    assert_eq!(refused(Accumulate { y: x.view(), ..good }), "y");
    assert_eq!(refused(Accumulate { y: Tensor::new(DType::F16, &[4, 8]).view(), ..good }), "y");
    assert_eq!(refused(Accumulate { x: y.view(), ..good }), "y");
    assert_eq!(refused(Accumulate { y: Tensor::new(DType::F32, &[8, 4]).view(), ..good }), "y");
    assert_eq!(refused(Accumulate { nonfinite: sum.view(), ..good }), "nonfinite");
    assert_eq!(refused(Accumulate { square_sum: Some(nonfinite.view()), ..good }), "square_sum");
    assert_eq!(refused(Accumulate { overflow: Some(sum.view()), ..good }), "overflow");
    assert_eq!(refused(Accumulate { overflow: Some(nonfinite.view()), ..good }), "overflow");
}
