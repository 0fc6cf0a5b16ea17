//! The oracle: scalar Philox, and the formulas in f64.

use crate::philox::Key;

/// Element `index` of the stream `key`, uniform on \[0, 1).
pub fn uniform(key: Key, index: u64) -> f64 {
    f64::from(key.word(index) >> 8) / 2f64.powi(24)
}

/// Element `index` of the stream `key`, standard normal.
pub fn normal(key: Key, index: u64) -> f64 {
    let block = key.block(index / 4);
    let pair = (index % 4 / 2 * 2) as usize;
    let u = f64::from(((block[pair] >> 1) as f32).mul_add(2f32.powi(-31), 2f32.powi(-32)));
    let angle = std::f64::consts::TAU * f64::from(block[pair + 1]) / 2f64.powi(32);
    let r = (-2.0 * u.ln()).sqrt();
    if index.is_multiple_of(2) { r * angle.cos() } else { r * angle.sin() }
}
