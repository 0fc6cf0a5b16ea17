//! The oracle.

/// The first parameter with an element that is not finite; if there is none, the first of the largest norm.
pub fn first_overflow(parameters: &[&[f64]]) -> usize {
    let bad = parameters.iter().position(|x| x.iter().any(|x| !x.is_finite()));
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    bad.unwrap_or_else(|| {
        (1..parameters.len()).fold(0, |first, i| if norm(parameters[i]) > norm(parameters[first]) { i } else { first })
    })
}
