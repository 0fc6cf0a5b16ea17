//! The oracle: the published definition of the map in f64, and a search of all its values.

use crate::dynamic_map::Sign;

/// `create_dynamic_map(signed, 7, 8)`: the 256 values in ascending order.
pub fn map(sign: Sign) -> Vec<f64> {
    let mut values = vec![0.0, 1.0];
    for i in 0..7 {
        let n = if sign == Sign::Signed { 1 << i } else { 2 << i };
        // Means of the neighbours among n + 1 evenly spaced numbers from 0.1 to 1.
        let bound = |k: i32| 0.1 + 0.9 * f64::from(k) / f64::from(n);
        for k in 0..n {
            let value = 10f64.powi(i - 6) * (bound(k) + bound(k + 1)) / 2.0;
            values.push(value);
            if sign == Sign::Signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    values
}

/// The distance of `r` from the nearest value of `map`.
pub fn distance(map: &[f64], r: f64) -> f64 {
    map.iter().map(|value| (value - r).abs()).fold(f64::INFINITY, f64::min)
}
