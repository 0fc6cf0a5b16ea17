//! Vectorised transcendental functions, with their largest error in units in the last place.

use super::simd::Simd;

/// e^x within 2 ulp; 0 below -104, infinity above 88.73, NaN for NaN. Denormal results are rounded twice.
///
/// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7; 2^n in two exact factors.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // min and max return their second argument for NaN.
    let x = s.min(s.splat(89.0), s.max(s.splat(-105.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts; the high part has trailing zeros, so n times it is exact.
    let r = s.fast_fma(n, s.splat(-0.693_359_4), x);
    let r = s.fast_fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fast_fma(p, r, s.splat(c));
    }
    let half = s.round(s.mul(n, s.splat(0.5)));
    let (a, b) = (s.to_i(half), s.to_i(s.sub(n, half)));
    let power = |k| s.of_bits(s.shl::<23>(s.add_i(k, s.splat_i(127))));
    s.mul(s.mul(p, power(a)), power(b))
}

/// Sine and cosine of `quarters` quarter turns (each pi / 2), |quarters| <= 1/2, plus `whole` more: within 2^-23.
///
/// Minimax polynomials on [-pi/4, pi/4] (Cephes, sinf and cosf), then signs and roles by the quadrant.
#[inline(always)]
pub fn sin_cos_quarters<S: Simd>(s: S, quarters: S::F, whole: S::I) -> (S::F, S::F) {
    let x = s.mul(quarters, s.splat(std::f32::consts::FRAC_PI_2));
    let z = s.mul(x, x);
    let p = s.fast_fma(z, s.splat(-1.951_529_6e-4), s.splat(8.332_161e-3));
    let p = s.fast_fma(z, p, s.splat(-1.666_665_5e-1));
    let sin = s.fast_fma(s.mul(z, x), p, x);
    let q = s.fast_fma(z, s.splat(2.443_315_7e-5), s.splat(-1.388_731_6e-3));
    let q = s.fast_fma(z, q, s.splat(4.166_664_6e-2));
    let cos = s.fast_fma(s.mul(z, z), q, s.fast_fma(z, s.splat(-0.5), s.splat(1.0)));
    let odd = s.eq_i(s.and(whole, s.splat_i(1)), s.splat_i(1));
    let minus = |x, quadrant| s.of_bits(s.xor(s.bits(x), s.shl::<30>(s.and(quadrant, s.splat_i(2)))));
    (minus(s.select(odd, cos, sin), whole), minus(s.select(odd, sin, cos), s.add_i(whole, s.splat_i(1))))
}

/// 2^x within 2 ulp for x <= 126, NaN for NaN; 0 below -126, where results would be denormal.
///
/// x = n + r, |r| <= 1/2; 2^r by a minimax polynomial (Cephes, exp2f); n is added to the exponent.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    // max returns its second argument for NaN.
    let bounded = s.max(s.splat(-127.0), x);
    let n = s.round(bounded);
    let r = s.sub(bounded, n);
    let mut p = s.splat(1.535_336_2e-4);
    for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
        p = s.fast_fma(p, r, s.splat(c));
    }
    let power = s.of_bits(s.add_i(s.bits(p), s.shl::<23>(s.to_i(n))));
    s.select(s.lt(x, s.splat(-126.0)), s.splat(0.0), power)
}
