//! Stochastic rounding, as [`crate::ops::cast`] states it: integer addition below the kept mantissa, then truncation.

use super::Simd;

/// bf16 bits of x, up when the high 16 bits of `random` say so.
#[inline(always)]
pub(crate) fn bf16<S: Simd>(s: S, x: S::F, random: S::I) -> S::I {
    let bits = s.bits(x);
    s.shr::<16>(s.keep_nan(bits, s.add_i(bits, s.shr::<16>(random))))
}

/// f16 bits of x, up when the high bits of `random` say so.
#[inline(always)]
pub(crate) fn f16<S: Simd>(s: S, x: S::F, random: S::I) -> S::I {
    const DROPPED: i32 = (1 << 13) - 1;
    let bits = s.bits(x);
    let magnitude = s.and(bits, s.splat_i(i32::MAX));
    let normal = s.and(s.add_i(magnitude, s.shr::<19>(random)), s.splat_i(!DROPPED));
    // Below 2^-14 all units are 2^-24, and counts of them are exact.
    let size = s.of_bits(magnitude);
    let count = s.mul(size, s.splat((1 << 24) as f32));
    let nearest = s.round(count);
    let one = s.splat(1.0);
    let down = s.select(s.lt(count, nearest), s.sub(nearest, one), nearest);
    let unit = s.splat(1.0 / (1 << 24) as f32);
    let up = s.lt(s.mul(s.to_f(s.shr::<8>(random)), unit), s.sub(count, down));
    let denormal = s.mul(s.select(up, s.add(down, one), down), unit);
    let rounded = s.select_i(
        s.gt_i(s.splat_i((127 - 14) << 23), magnitude),
        s.bits(denormal),
        s.select_i(s.gt_i(magnitude, s.splat_i(0x7f80_0000)), magnitude, normal),
    );
    // What is left of the conversion is exact, or 65536 and more.
    let value = s.of_bits(s.or(rounded, s.and(bits, s.splat_i(i32::MIN))));
    s.f32_to_f16(value)
}
