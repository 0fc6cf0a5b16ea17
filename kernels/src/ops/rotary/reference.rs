//! The oracle: one pair at a time, in f64.

use super::RotaryLayout;

/// Turns `x`, contiguous `[batch, positions.len(), heads, d]`; see the [module](super).
pub fn rotary(
    x: &[f64],
    positions: &[i32],
    heads: usize,
    d: usize,
    base: f64,
    layout: RotaryLayout,
    inverse: bool,
) -> Vec<f64> {
    let mut y = x.to_vec();
    if x.is_empty() {
        return y;
    }
    for (row, head) in y.chunks_exact_mut(d).enumerate() {
        let position = positions[row / heads % positions.len()];
        for i in 0..d / 2 {
            let angle = f64::from(position) * base.powf(-2.0 * i as f64 / d as f64);
            let (sin, cos) = if inverse { -angle } else { angle }.sin_cos();
            let (first, second) = match layout {
                RotaryLayout::Halves => (i, i + d / 2),
                RotaryLayout::Interleaved => (2 * i, 2 * i + 1),
            };
            let (a, b) = (head[first], head[second]);
            head[first] = a * cos - b * sin;
            head[second] = b * cos + a * sin;
        }
    }
    y
}
