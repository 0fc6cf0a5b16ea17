use crate::harness::{Rng, Tensor, assert_same, hostile, levels, run_with};
use scalert_kernels::dtype::DType;
use scalert_kernels::ops::Op;
use scalert_kernels::ops::rank_reduce::{RankReduce, Reduction, reference};
use scalert_kernels::view::View;

const SIZES: [usize; 8] = [0, 1, 15, 33, 64, 129, 16_384, 50_003];

#[test]
fn floats_have_the_bits_of_the_reference_apart_and_in_place() {
    let mut rng = Rng(1);
    for (dtype, world, reduction) in cases(&DType::FLOATS, &[Reduction::Sum, Reduction::Max, Reduction::Mean]) {
        for n in SIZES {
            let inputs: Vec<Tensor> = (0..world)
                .map(|rank| Tensor::with_layout(dtype, &[n], 0, rank % 3).fill(|_| hostile(&mut rng)))
                .collect();
            let values: Vec<Vec<f64>> = inputs.iter().map(Tensor::values).collect();
            let y = reference::rank_reduce(&values, reduction);
            // A quotient of f32 rounded through f64 has the bits of the division in f32.
            let expected = Tensor::new(dtype, &[n]).fill(|i| f64::from(y[i] as f32));
            for (what, outputs) in everywhere(&inputs, reduction) {
                for y in &outputs {
                    y.assert_guards(&what);
                    assert_same(&format!("{what} {dtype} {reduction:?} of {world} x {n}"), y, &expected);
                }
            }
        }
    }
}

#[test]
fn integers_wrap_and_the_largest_is_found() {
    for (dtype, world, reduction) in cases(&[DType::I64], &[Reduction::Sum, Reduction::Max]) {
        let mut rng = Rng(2);
        for n in SIZES {
            let words: Vec<Vec<i64>> = (0..world).map(|_| (0..n).map(|_| rng.next_u64() as i64).collect()).collect();
            let inputs: Vec<Tensor> = words
                .iter()
                .map(|words| {
                    let mut tensor = Tensor::new(dtype, &[n]);
                    tensor.set_words(words);
                    tensor
                })
                .collect();
            let column = |i: usize| words.iter().map(move |w| w[i]);
            let expected: Vec<u64> = (0..n)
                .map(|i| match reduction {
                    Reduction::Max => column(i).max().unwrap() as u64,
                    _ => column(i).fold(0, i64::wrapping_add) as u64,
                })
                .collect();
            for (what, outputs) in everywhere(&inputs, reduction) {
                outputs.iter().for_each(|y| assert_eq!(y.bits(), expected, "{what} {reduction:?} of {world} x {n}"));
            }
        }
    }
}

fn cases(dtypes: &[DType], reductions: &[Reduction]) -> Vec<(DType, usize, Reduction)> {
    let worlds = |dtype| [1, 2, 3, 8].map(|world| (dtype, world));
    let pairs = dtypes.iter().flat_map(|dtype| worlds(*dtype));
    pairs.flat_map(|(dtype, world)| reductions.iter().map(move |r| (dtype, world, *r))).collect()
}

/// The outputs at every level and for 1 and 3 threads: one apart, and every input as an output too.
fn everywhere(inputs: &[Tensor], reduction: Reduction) -> Vec<(String, Vec<Tensor>)> {
    let mut results = Vec::new();
    for (level, threads) in levels().into_iter().flat_map(|level| [(level, 1), (level, 3)]) {
        let apart = Tensor::with_layout(inputs[0].dtype(), inputs[0].shape(), 0, 1);
        let views: Vec<View<'_>> = inputs.iter().map(Tensor::view).collect();
        run_with(&RankReduce { inputs: &views, reduction, outputs: &[apart.view()] }, level, threads);
        let in_place = inputs.to_vec();
        let views: Vec<View<'_>> = in_place.iter().map(Tensor::view).collect();
        run_with(&RankReduce { inputs: &views, reduction, outputs: &views }, level, threads);
        results.push((level.name().to_string(), in_place.into_iter().chain([apart]).collect()));
    }
    results
}

#[test]
fn bad_arguments_are_named() {
    let tensor = |dtype, n| Tensor::new(dtype, &[n]);
    let (a, b, y) = (tensor(DType::F32, 8), tensor(DType::F32, 8), tensor(DType::F32, 8));
    let (half, long, word) = (tensor(DType::F16, 8), tensor(DType::F32, 9), tensor(DType::I64, 8));
    let refused = |inputs: &[View<'_>], outputs: &[View<'_>], reduction| {
        RankReduce { inputs, reduction, outputs }.check().unwrap_err().argument
    };
    let sum = Reduction::Sum;
    assert_eq!(refused(&[], &[y.view()], sum), "inputs");
    assert_eq!(refused(&[a.view()], &[], sum), "outputs");
    assert_eq!(refused(&[a.view(), half.view()], &[y.view()], sum), "inputs");
    assert_eq!(refused(&[a.view(), long.view()], &[y.view()], sum), "inputs");
    assert_eq!(refused(&[tensor(DType::I32, 8).view()], &[y.view()], sum), "inputs");
    assert_eq!(refused(&[word.view()], &[word.view()], Reduction::Mean), "inputs");
    assert_eq!(refused(&[a.view(), b.view()], &[long.view()], sum), "outputs");
    assert_eq!(refused(&[a.view(), b.view()], &[y.view(), y.view()], sum), "outputs");
    // SAFETY: inside the tensor; check reads no element.
    let part =
        |first: usize| unsafe { View::new("part", long.view().data().add(first * 4), DType::F32, &[8], &[1]).unwrap() };
    assert_eq!(refused(&[part(0)], &[part(1)], sum), "outputs");
}
