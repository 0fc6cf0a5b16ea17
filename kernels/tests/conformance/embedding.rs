use crate::device::cuda;
use crate::harness::{
    Rng, Tensor, assert_each_close, central_difference, epsilon, half_denormal, run_everywhere, run_with,
};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::embedding::{EmbeddingBackward, EmbeddingForward, reference};

/// Shape of the tokens, vocabulary, width, positions beyond those used, row padding and offset.
type Case = (&'static [usize], usize, usize, usize, usize, usize);

const CASES: [Case; 11] = [
    (&[1], 1, 1, 0, 0, 0),
    (&[0], 3, 4, 2, 0, 0),
    (&[2, 0], 3, 4, 2, 0, 0),
    (&[0, 3], 3, 4, 0, 0, 0),
    (&[3, 5], 7, 0, 0, 0, 0),
    (&[3, 5], 7, 13, 1, 3, 1),
    (&[2, 3, 4], 11, 64, 0, 0, 0),
    (&[2, 2, 2, 3], 5, 81, 2, 1, 3),
    (&[4, 60], 30, 600, 0, 5, 1),
    (&[2000], 3, 33, 0, 0, 1),
    (&[3, 7], 2000, 40, 9, 0, 0),
];

fn tokens_of(shape: &[usize], vocabulary: usize, rng: &mut Rng) -> Tensor {
    // Mostly one frequent token, as padding is, and the ends of the vocabulary.
    Tensor::with_layout(DType::I32, shape, 1, 1).fill(|i| match i % 4 {
        0 => 0.0,
        1 => vocabulary as f64 - 1.0,
        _ => rng.below(vocabulary) as f64,
    })
}

fn ids(tokens: &Tensor) -> Vec<i32> {
    tokens.values().iter().map(|x| *x as i32).collect()
}

#[test]
fn forward_has_the_bits_of_the_reference() {
    let mut rng = Rng(1);
    for dtype in DType::FLOATS {
        for (shape, v, c, more, padding, offset) in CASES {
            let t = *shape.last().unwrap();
            let special = [f64::NAN, f64::INFINITY, -0.0, 1e-40, 65504.0];
            let mut table = |rows: usize| {
                Tensor::with_layout(dtype, &[rows, c], padding, offset)
                    .fill(|i| if i % 9 == 4 { special[i % 5] } else { rng.normal() })
            };
            let (token_table, position_table) = (table(v), table(t + more));
            let tokens = tokens_of(shape, v, &mut rng);
            let full = [shape, &[c]].concat();
            let positions = position_table.values();
            for positions in [None, Some(&positions[..])] {
                let y = reference::forward(&ids(&tokens), t, &token_table.values(), positions, c);
                let expected = Tensor::new(dtype, &full).fill(|i| f64::from(y[i] as f32));
                for (level, out) in run_everywhere(|level, threads| {
                    let y = Tensor::with_layout(dtype, &full, padding + 1, 1);
                    let op = EmbeddingForward {
                        tokens: tokens.view(),
                        token_table: token_table.view(),
                        position_table: positions.map(|_| position_table.view()),
                        y: y.view(),
                    };
                    run_with(&op, level, threads);
                    vec![y]
                }) {
                    for i in 0..expected.numel() {
                        let (got, want) = (out[0].get(i), expected.get(i));
                        // A copy keeps the sign of zero; a sum of zeros has its own.
                        let same = got == want || (got.is_nan() && want.is_nan());
                        assert!(same, "{} {dtype} {full:?} element {i}: {got}, not {want}", level.name());
                    }
                }
            }
        }
    }
}

#[test]
fn backward_matches_the_reference() {
    let mut rng = Rng(2);
    for dtype in DType::FLOATS {
        for (n, (shape, v, c, more, padding, offset)) in CASES.into_iter().enumerate() {
            for accumulate in [false, true] {
                let t = *shape.last().unwrap();
                let gradients = if (n % 2 == 0) == accumulate { DType::F32 } else { dtype };
                let tokens = tokens_of(shape, v, &mut rng);
                let full = [shape, &[c]].concat();
                let dy = Tensor::with_layout(dtype, &full, padding, offset).normal(&mut rng, 1.0);
                let mut old =
                    |rows: usize| Tensor::with_layout(gradients, &[rows, c], padding, offset).normal(&mut rng, 1.0);
                let (old_tokens, old_positions) = (old(v), old(t + more));
                let outputs = run_everywhere(|level, threads| {
                    let (dtokens, dpositions, alone) = (old_tokens.clone(), old_positions.clone(), old_tokens.clone());
                    let op = EmbeddingBackward {
                        tokens: tokens.view(),
                        dy: dy.view(),
                        dtoken_table: dtokens.view(),
                        dposition_table: Some(dpositions.view()),
                        accumulate,
                    };
                    run_with(&op, level, threads);
                    run_with(
                        &EmbeddingBackward { dtoken_table: alone.view(), dposition_table: None, ..op },
                        level,
                        threads,
                    );
                    assert!(alone.bits() == dtokens.bits());
                    vec![dtokens, dpositions]
                });
                let keep = if accumulate { 1.0 } else { 0.0 };
                let start = |old: &Tensor| old.values().iter().map(|x| x * keep).collect::<Vec<f64>>();
                let sums = |dy: &[f64], mut a: Vec<f64>, mut b: Vec<f64>| {
                    reference::backward(&ids(&tokens), t, dy, c, &mut a, &mut b);
                    (a, b)
                };
                let dy = dy.values();
                let (dtokens, dpositions) = sums(&dy, start(&old_tokens), start(&old_positions));
                let magnitudes: Vec<f64> = dy.iter().map(|x| x.abs()).collect();
                let zeros = |old: &Tensor| vec![0.0; old.numel()];
                let (most_t, most_p) = sums(&magnitudes, zeros(&old_tokens), zeros(&old_positions));
                let summands = dy.len() as f64 / c.max(1) as f64;
                let bound = |sum: f64| summands * epsilon(DType::F32) * sum + half_denormal(gradients);
                for (level, out) in outputs {
                    let what = format!("{} {dtype} {gradients} {full:?} {accumulate}", level.name());
                    let relative = 2.0 * epsilon(gradients);
                    assert_each_close(&format!("{what} tokens"), &out[0], &dtokens, relative, |i| bound(most_t[i]));
                    assert_each_close(&format!("{what} positions"), &out[1], &dpositions, relative, |i| {
                        bound(most_p[i])
                    });
                }
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_stays_in_its_row() {
    let tokens = Tensor::new(DType::I32, &[4]).fill(|i| [2.0, 0.0, 2.0, 1.0][i]);
    let dy = Tensor::new(DType::BF16, &[4, 70]).fill(|i| if i / 70 == 1 { f64::NAN } else { 1.0 });
    for (_, out) in run_everywhere(|level, threads| {
        let table = Tensor::new(DType::F32, &[4, 70]);
        let op = EmbeddingBackward {
            tokens: tokens.view(),
            dy: dy.view(),
            dtoken_table: table.view(),
            dposition_table: None,
            accumulate: false,
        };
        run_with(&op, level, threads);
        vec![table]
    }) {
        for (i, x) in out[0].values().iter().enumerate() {
            match i / 70 {
                0 => assert!(x.is_nan()),
                row => assert_eq!(*x, [0.0, 1.0, 2.0, 0.0][row]),
            }
        }
    }
}

#[test]
fn on_a_device_a_token_outside_the_table_makes_its_row_nan() {
    let Some(cuda) = cuda() else { return };
    let new = |dtype, shape: &[usize]| Tensor::with_layout(dtype, shape, 1, 1);
    let ids = [2.0, -1.0, 4.0, f64::from(i32::MAX), 2.0, f64::from(i32::MIN), 0.0, 3.0];
    for dtype in DType::FLOATS {
        let tokens = new(DType::I32, &[2, 4]).fill(|i| ids[i]);
        let (table, positions) = (new(dtype, &[4, 9]).fill(|i| i as f64), new(dtype, &[4, 9]).fill(|_| 1.0));
        let y = new(dtype, &[2, 4, 9]);
        let op = EmbeddingForward {
            tokens: tokens.view(),
            token_table: table.view(),
            position_table: Some(positions.view()),
            y: y.view(),
        };
        op.check().unwrap();
        cuda.run(&op);
        y.assert_guards("y");
        let known = |id: f64| (0.0..4.0).contains(&id);
        for i in 0..72 {
            let id = ids[i / 9];
            let expected = if known(id) { id * 9.0 + (i % 9) as f64 + 1.0 } else { f64::NAN };
            assert!(y.get(i) == expected || y.get(i).is_nan() && expected.is_nan(), "{dtype} {i}: {}", y.get(i));
        }
        let dy = new(dtype, &[2, 4, 9]).fill(|i| (i / 9) as f64);
        let (dtable, dpositions) = (new(dtype, &[4, 9]), new(dtype, &[4, 9]));
        let op = EmbeddingBackward {
            tokens: tokens.view(),
            dy: dy.view(),
            dtoken_table: dtable.view(),
            dposition_table: Some(dpositions.view()),
            accumulate: false,
        };
        op.check().unwrap();
        cuda.run(&op);
        dtable.assert_guards("dtoken_table");
        for i in 0..36 {
            assert_eq!(dtable.get(i), [6.0, 0.0, 4.0, 7.0][i / 9]);
            assert_eq!(dpositions.get(i), [4.0, 6.0, 8.0, 10.0][i / 9]);
        }
    }
}

#[test]
fn places_of_one_token_in_many_windows_are_summed_in_order() {
    // More places than one block sorts or sums, of tokens of one, two and three digits.
    for (vocabulary, count) in [(3, 2500), (300, 2100), (70_000, 700)] {
        let mut rng = Rng(7);
        let tokens = Tensor::new(DType::I32, &[count]).fill(|i| match i % 3 {
            0 => vocabulary as f64 - 1.0,
            1 => rng.below(vocabulary) as f64,
            _ => (i * 7 % vocabulary.min(5)) as f64,
        });
        let dy = Tensor::new(DType::BF16, &[count, 8]).normal(&mut Rng(8), 1.0);
        let (mut sums, mut sizes) = (vec![0.0; vocabulary * 8], vec![0.0; vocabulary * 8]);
        for i in 0..count * 8 {
            let at = tokens.get(i / 8) as usize * 8 + i % 8;
            (sums[at], sizes[at]) = (sums[at] + dy.get(i), sizes[at] + dy.get(i).abs());
        }
        for (level, out) in run_everywhere(|level, threads| {
            let table = Tensor::new(DType::F32, &[vocabulary, 8]);
            let op = EmbeddingBackward {
                tokens: tokens.view(),
                dy: dy.view(),
                dtoken_table: table.view(),
                dposition_table: None,
                accumulate: false,
            };
            run_with(&op, level, threads);
            vec![table]
        }) {
            assert_each_close(level.name(), &out[0], &sums, 0.0, |i| count as f64 * epsilon(DType::F32) * sizes[i]);
        }
    }
}

#[test]
fn the_gradients_are_the_derivatives() {
    let mut rng = Rng(3);
    let tokens = [1, 0, 1, 1, 3, 0];
    let mut values = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
    let (token_table, position_table, dy) = (values(8), values(8), values(12));
    let total = |a: &[f64], b: &[f64]| {
        reference::forward(&tokens, 3, a, Some(b), 2).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
    };
    let (mut dtokens, mut dpositions) = (vec![0.0; 8], vec![0.0; 8]);
    reference::backward(&tokens, 3, &dy, 2, &mut dtokens, &mut dpositions);
    for i in 0..8 {
        let slope = central_difference(&token_table, i, 1e-3, |x| total(x, &position_table));
        assert!((slope - dtokens[i]).abs() < 1e-9);
        let slope = central_difference(&position_table, i, 1e-3, |x| total(&token_table, x));
        assert!((slope - dpositions[i]).abs() < 1e-9);
    }
}

#[test]
fn refuses_bad_arguments() {
    let new = |dtype, shape: &[usize]| Tensor::new(dtype, shape);
    let (f, b) = (DType::F32, DType::BF16);
    let tokens = new(DType::I32, &[2, 3]).fill(|i| i as f64);
    let (table, positions, y) = (new(b, &[6, 8]), new(b, &[3, 8]), new(b, &[2, 3, 8]));
    let (short, narrow, wide, floats) = (new(b, &[2, 8]), new(b, &[6, 7]), new(b, &[2, 3, 9]), new(f, &[6, 8]));
    let five = new(DType::I32, &[1, 1, 1, 2, 3]);
    let flat = new(b, &[6, 8]);
    let op = EmbeddingForward {
        tokens: tokens.view(),
        token_table: table.view(),
        position_table: Some(positions.view()),
        y: y.view(),
    };
    assert_eq!(op.check(), Ok(()));
    assert_eq!(op.check_elements(), Ok(()));
    let refused = |op: EmbeddingForward<'_>| op.check().unwrap_err().argument;
    assert_eq!(refused(EmbeddingForward { tokens: floats.view(), ..op }), "tokens");
    assert_eq!(refused(EmbeddingForward { tokens: five.view(), ..op }), "tokens");
    assert_eq!(refused(EmbeddingForward { token_table: tokens.view(), ..op }), "token_table");
    assert_eq!(refused(EmbeddingForward { token_table: y.view(), ..op }), "token_table");
    assert_eq!(refused(EmbeddingForward { position_table: Some(short.view()), ..op }), "position_table");
    assert_eq!(refused(EmbeddingForward { position_table: Some(narrow.view()), ..op }), "position_table");
    assert_eq!(refused(EmbeddingForward { position_table: Some(floats.view()), ..op }), "position_table");
    assert_eq!(refused(EmbeddingForward { y: wide.view(), ..op }), "y");
    assert_eq!(refused(EmbeddingForward { y: flat.view(), ..op }), "y");
    for (bad, message) in [(6.0, "token 6 at index 4"), (-1.0, "token -1 at index 4")] {
        let tokens = new(DType::I32, &[2, 3]).fill(|i| if i == 4 { bad } else { 5.0 });
        let error = EmbeddingForward { tokens: tokens.view(), ..op }.check_elements().unwrap_err();
        assert!(error.argument == "tokens" && error.message.contains(message), "{error}");
        let op = EmbeddingBackward {
            tokens: tokens.view(),
            dy: y.view(),
            dtoken_table: table.view(),
            dposition_table: None,
            accumulate: false,
        };
        assert_eq!(op.check_elements().unwrap_err(), error);
    }
    let op = EmbeddingBackward {
        tokens: tokens.view(),
        dy: y.view(),
        dtoken_table: floats.view(),
        dposition_table: Some(positions.view()),
        accumulate: false,
    };
    assert_eq!(op.check(), Ok(()));
    let refused = |op: EmbeddingBackward<'_>| op.check().unwrap_err().argument;
    let half = new(DType::F16, &[6, 8]);
    assert_eq!(refused(EmbeddingBackward { tokens: y.view(), ..op }), "tokens");
    assert_eq!(refused(EmbeddingBackward { dy: flat.view(), ..op }), "dy");
    assert_eq!(refused(EmbeddingBackward { dy: tokens.view(), ..op }), "dy");
    assert_eq!(refused(EmbeddingBackward { dtoken_table: narrow.view(), ..op }), "dtoken_table");
    assert_eq!(refused(EmbeddingBackward { dtoken_table: half.view(), ..op }), "dtoken_table");
    assert_eq!(refused(EmbeddingBackward { dposition_table: Some(short.view()), ..op }), "dposition_table");
    assert_eq!(refused(EmbeddingBackward { dposition_table: Some(floats.view()), ..op }), "dposition_table");
}
