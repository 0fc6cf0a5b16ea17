//! The oracle.

use super::Reduction;

/// y of the inputs of the ranks. Sums of floats are of f32, in order, as the operation promises.
pub fn rank_reduce(inputs: &[Vec<f64>], reduction: Reduction) -> Vec<f64> {
    let largest = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
    (0..inputs[0].len())
        .map(|i| {
            let mut x = inputs.iter().map(|input| input[i]);
            let first = x.next().expect("a group has a rank");
            match reduction {
                Reduction::Max => x.fold(first, |y, x| if y.is_nan() { y } else { largest(y, x) }),
                Reduction::Sum => x.fold(first, |y, x| f64::from((y + x) as f32)),
                Reduction::Mean => x.fold(first, |y, x| f64::from((y + x) as f32)) / inputs.len() as f64,
            }
        })
        .collect()
}
