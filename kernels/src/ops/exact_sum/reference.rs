//! The oracle: blocks by their definition, and an exact sum in floating point.

use crate::exact_sum::BLOCK;

/// The sums of the blocks of `x`, in f64 by the fixed order, and how many elements are not finite.
pub fn block_sums(x: &[f64], square: bool) -> (Vec<f64>, u64) {
    let nonfinite = x.iter().filter(|x| !x.is_finite()).count() as u64;
    let term = |x: f64| match (x.is_finite(), square) {
        (false, _) => 0.0,
        (true, false) => x,
        (true, true) => x * x,
    };
    let sums = x.chunks(BLOCK).map(|block| {
        let mut partial = vec![0.0; 16];
        for (i, x) in block.iter().enumerate() {
            partial[i % 16] += term(*x);
        }
        while partial.len() > 1 {
            let half = partial.len() / 2;
            partial = (0..half).map(|j| partial[j] + partial[j + half]).collect();
        }
        partial[0]
    });
    (sums.collect(), nonfinite)
}

/// The sum of `values`, rounded once to nearest even, by Shewchuk's (1997) non-overlapping partials. Intermediate sums
/// must stay inside the range of f64.
pub fn exact_sum(values: &[f64]) -> f64 {
    let mut partials: Vec<f64> = vec![];
    for &value in values {
        let mut x = value;
        let mut kept = vec![];
        for &y in &partials {
            let (large, small) = if x.abs() < y.abs() { (y, x) } else { (x, y) };
            let high = large + small;
            let low = small - (high - large);
            if low != 0.0 {
                kept.push(low);
            }
            x = high;
        }
        kept.push(x);
        partials = kept;
    }
    // Add from the largest down until a rounding happens; then settle a tie by the sign of what is left.
    let mut high = 0.0;
    while let Some(x) = partials.pop() {
        let before = high;
        high = before + x;
        let low = x - (high - before);
        if low != 0.0 {
            if partials.last().is_some_and(|next| next.signum() == low.signum() && *next != 0.0) {
                let twice = high + 2.0 * low;
                if twice - high == 2.0 * low {
                    return twice;
                }
            }
            return high;
        }
    }
    high
}
