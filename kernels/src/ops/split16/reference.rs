//! The oracle: arithmetic on bits.

/// Weight and remainder of the f32 with these bits, which is no NaN.
pub fn split(bits: u32) -> (u16, i16) {
    let remainder = (i64::from(bits) + 0x8000).rem_euclid(0x1_0000) - 0x8000;
    (((i64::from(bits) - remainder) / 0x1_0000) as u16, remainder as i16)
}

/// Bits of the f32 of a weight and a remainder.
pub fn join(weight: u16, remainder: i16) -> u32 {
    (i64::from(weight) * 0x1_0000 + i64::from(remainder)) as u32
}
