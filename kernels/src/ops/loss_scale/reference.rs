//! The oracle: the scale after a history, from the definition.

/// Hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Factor of growth.
    pub growth_factor: f64,
    /// Factor of backing off.
    pub backoff_factor: f64,
    /// Smallest scale.
    pub minimum: f64,
    /// Largest scale.
    pub maximum: f64,
    /// Finite steps before the scale grows.
    pub growth_interval: usize,
    /// Overflows in a row before it backs off.
    pub hysteresis: usize,
}

/// The scale after steps of which `overflows` says whether they overflowed; products must be exact in f32.
pub fn scale(rules: Rules, initial: f64, overflows: &[bool]) -> f64 {
    let mut scale = initial;
    // Since the last overflow or growth, and since the last finite step.
    let (mut finite, mut row) = (0, 0);
    for overflow in overflows {
        (finite, row) = if *overflow { (0, row + 1) } else { (finite + 1, 0) };
        if *overflow && row >= rules.hysteresis {
            scale = f64::max(scale * rules.backoff_factor, rules.minimum);
        }
        if finite == rules.growth_interval {
            (scale, finite) = (f64::min(scale * rules.growth_factor, rules.maximum), 0);
        }
    }
    scale
}
