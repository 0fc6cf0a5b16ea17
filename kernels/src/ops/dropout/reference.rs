//! The oracle.

use crate::philox::Key;

/// Drops each element of `x`, the first of which has index `first` in the stream `key`, with this probability.
pub fn dropout(x: &[f64], probability: f64, key: Key, first: u64) -> Vec<f64> {
    let kept = |i: usize| f64::from(key.word(first + i as u64)) >= (probability * 2f64.powi(32)).round();
    x.iter().enumerate().map(|(i, x)| if kept(i) { x / (1.0 - probability) } else { 0.0 }).collect()
}
