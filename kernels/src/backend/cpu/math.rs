//! Vectorised transcendental functions, with their largest error in units in the last place (ulp).
//!
//! The polynomials and rational functions are minimax fits of the relative error, made for these ranges. An argument
//! of NaN gives NaN. The errors stated are those of every level, measured against f64 by the conformance tests.

use super::simd::Simd;

/// a * b + c, rounded once at every level when `ONCE`.
#[inline(always)]
fn fma<S: Simd, const ONCE: bool>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
    if ONCE { s.fma(a, b, c) } else { s.fast_fma(a, b, c) }
}

/// c[n-1] x^(n-1) + … + c[1] x + c[0] by Horner's rule.
#[inline(always)]
fn horner<S: Simd, const ONCE: bool, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    let mut p = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        p = fma::<S, ONCE>(s, p, x, s.splat(c[i]));
    }
    p
}

/// [`horner`] where tolerance is the contract.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    horner::<S, false, N>(s, x, c)
}

/// `magnitude`, which is not negative, with the sign of `sign`.
#[inline(always)]
fn with_sign<S: Simd>(s: S, magnitude: S::F, sign: S::F) -> S::F {
    s.of_bits(s.or(s.bits(magnitude), s.and(s.bits(sign), s.splat_i(i32::MIN))))
}

/// e^x within 1.5 ulp; 0 below -104, infinity above 88.73. Denormal results may be rounded twice.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // min and max return their second argument for NaN.
    exp_in_range(s, s.min(s.splat(89.0), s.max(s.splat(-105.0), x)))
}

/// [`exp`] of x <= 0, as in a softmax.
#[inline(always)]
pub fn exp_nonpositive<S: Simd>(s: S, x: S::F) -> S::F {
    exp_in_range(s, s.max(s.splat(-105.0), x))
}

/// [`exp`] of x in -160..=89 or NaN.
///
/// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by a polynomial of degree 6 (relative error 4e-9).
#[inline(always)]
fn exp_in_range<S: Simd>(s: S, x: S::F) -> S::F {
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts; the high part has trailing zeros, so n times it is exact.
    let r = s.fast_fma(n, s.splat(-0.693_359_4), x);
    let r = s.fast_fma(n, s.splat(2.121_944_4e-4), r);
    let p = polynomial(s, r, [1.0, 1.0, 0.499_999_93, 0.166_665_09, 0.041_668_53, 0.008_370_136, 0.001_381_165_6]);
    s.scale(p, n)
}

/// The natural logarithm within 1.5 ulp; -infinity for 0, NaN below 0.
///
/// x = 2^e m, sqrt(1/2) <= m < sqrt(2), f = m - 1; ln m = f - f^2/2 + f^3 p(f) with p of degree 7.
#[inline(always)]
pub fn log<S: Simd>(s: S, x: S::F) -> S::F {
    logarithm::<S, false>(s, x)
}

/// [`log`] with the same bits at every level.
#[inline(always)]
pub fn log_same_bits<S: Simd>(s: S, x: S::F) -> S::F {
    logarithm::<S, true>(s, x)
}

#[inline(always)]
fn logarithm<S: Simd, const ONCE: bool>(s: S, x: S::F) -> S::F {
    const SQRT_HALF: i32 = 0x3f35_04f3;
    const ONE: i32 = 0x3f80_0000;
    let denormal = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let normal = s.select(denormal, s.mul(x, s.splat((1 << 23) as f32)), x);
    let bits = s.add_i(s.bits(normal), s.splat_i(ONE - SQRT_HALF));
    let e = s.to_f(s.sub_i(s.shr::<23>(bits), s.splat_i(127)));
    let e = s.sub(e, s.select(denormal, s.splat(23.0), s.splat(0.0)));
    let m = s.of_bits(s.add_i(s.and(bits, s.splat_i(0x007f_ffff)), s.splat_i(SQRT_HALF)));
    let f = s.sub(m, s.splat(1.0));
    let f2 = s.mul(f, f);
    let c =
        [0.333_333_33, -0.250_008_2, 0.200_012_25, -0.166_233_5, 0.142_018_06, -0.131_603, 0.127_612_78, -0.076_338_1];
    let tail = s.mul(s.mul(f, f2), horner::<S, ONCE, 8>(s, f, c));
    let tail = fma::<S, ONCE>(s, e, s.splat(-2.121_944_4e-4), tail);
    let tail = fma::<S, ONCE>(s, f2, s.splat(-0.5), tail);
    let y = fma::<S, ONCE>(s, e, s.splat(0.693_359_4), s.add(f, tail));
    let y = s.select(s.lt(x, s.splat(f32::INFINITY)), y, s.add(x, x));
    let not_positive = s.select(s.lt(x, s.splat(0.0)), s.splat(f32::NAN), s.splat(f32::NEG_INFINITY));
    s.select(s.le(x, s.splat(0.0)), not_positive, y)
}

/// The sine and the cosine of 2 pi t / 2^32 for the unsigned integer t, within 2e-7, with the same bits at every level.
///
/// The nearest quarter turn is taken off exactly; on the rest, at most pi / 4, the polynomials of Cephes' sinf and cosf.
#[inline(always)]
pub fn sin_cos_turn<S: Simd>(s: S, t: S::I) -> (S::F, S::F) {
    let quarter = s.shr::<30>(s.add_i(t, s.splat_i(1 << 29)));
    let rest = s.to_f(s.sub_i(t, s.shl::<30>(quarter)));
    let x = s.mul(rest, s.splat((std::f64::consts::TAU / (1u64 << 32) as f64) as f32));
    let x2 = s.mul(x, x);
    let p = horner::<S, true, 3>(s, x2, [-0.166_666_55, 0.008_332_161, -1.951_529_6e-4]);
    let sin = s.fma(s.mul(x, x2), p, x);
    let p = horner::<S, true, 3>(s, x2, [0.041_666_646, -0.001_388_731_6, 2.443_315_7e-5]);
    let cos = s.fma(s.mul(x2, x2), p, s.fma(x2, s.splat(-0.5), s.splat(1.0)));
    // Quarter turns: (sin, cos), (cos, -sin), (-sin, -cos), (-cos, sin).
    let odd = s.eq_i(s.and(quarter, s.splat_i(1)), s.splat_i(1));
    let negate = |x: S::F, quarter: S::I| {
        let sign = s.shl::<30>(s.and(quarter, s.splat_i(2)));
        s.of_bits(s.xor(s.bits(x), sign))
    };
    let (a, b) = (s.select(odd, cos, sin), s.select(odd, sin, cos));
    (negate(a, quarter), negate(b, s.add_i(quarter, s.splat_i(1))))
}

/// The hyperbolic tangent within 2 ulp.
///
/// For |x| < 0.625 an odd polynomial of degree 11, else 1 - 2 / (e^(2|x|) + 1).
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    let a2 = s.mul(a, a);
    let p = polynomial(s, a2, [-0.333_332_75, 0.133_312_74, -0.053_725_1, 0.020_589_75, -0.005_648_239]);
    let small = s.fast_fma(s.mul(a, a2), p, a);
    let one = s.splat(1.0);
    let power = exp(s, s.add(a, a));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(power, one)));
    with_sign(s, s.select(s.lt(a, s.splat(0.625)), small, large), x)
}

/// The error function within 2 ulp.
///
/// For |x| < 0.86 an odd polynomial of degree 11, else 1 - 2 Phi(-sqrt(2) |x|).
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.abs(x);
    let c = [0.128_379_16, -0.376_125_6, 0.112_825_55, -0.026_795_603, 0.005_039_116, -6.243_522_7e-4];
    let small = s.fast_fma(a, polynomial(s, s.mul(a, a), c), a);
    let (tail, _) = normal_tail(s, s.mul(a, s.splat(std::f32::consts::SQRT_2)));
    let large = s.sub(s.splat(1.0), s.add(tail, tail));
    with_sign(s, s.select(s.lt(a, s.splat(0.86)), small, large), x)
}

/// 1 / (1 + e^-x) within 2.5 ulp where the result is at least 1e-38, else within 1e-38.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.neg(x))))
}

/// Phi(-a), the probability that a standard normal variable exceeds `a` >= 0, and e^(-a^2/2): Phi(-a) within
/// 4 + a^2 ulp, e^(-a^2/2) within 2 + a^2 ulp, both 0 above 15.
///
/// e^(a^2/2) Phi(-a) is a rational function of degrees 4 and 5 (relative error 6e-9, all terms positive).
#[inline(always)]
pub fn normal_tail<S: Simd>(s: S, a: S::F) -> (S::F, S::F) {
    let a = s.min(s.splat(15.0), a);
    let e = exp_in_range(s, s.mul(s.mul(a, s.splat(-0.5)), a));
    let p = polynomial(s, a, [0.5, 0.438_292_68, 0.183_232_57, 0.040_632_1, 0.004_116_075_7]);
    let q = polynomial(s, a, [1.0, 1.674_470_3, 1.202_494_4, 0.469_463_64, 0.101_856_02, 0.010_317_352]);
    (s.div(s.mul(e, p), q), e)
}

/// 2^x within 1.5 ulp for x <= 250; 0 below -150, infinity from 128. Denormal results may be rounded twice.
///
/// x = n + r, |r| <= 1/2; 2^r by a polynomial of degree 6 (Cephes, exp2f).
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    // max returns its second argument for NaN.
    let x = s.max(s.splat(-160.0), x);
    let n = s.round(x);
    let c =
        [1.0, std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_4, 0.000_153_533_62];
    s.scale(polynomial(s, s.sub(x, n), c), n)
}

/// 2^x within 4e-7 of its value for x <= 0, 0 from -127 down. A NaN without low bits, as come of bf16, stays NaN.
#[inline(always)]
pub fn exp2_nonpositive_bf16<S: Simd>(s: S, x: S::F) -> S::F {
    whole_and_rest(s, x, [1.0, std::f32::consts::LN_2, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7])
}

/// [`exp2_nonpositive_bf16`] within 4e-6 of its value, for what is stored as bf16.
#[inline(always)]
pub fn exp2_nonpositive_rough<S: Simd>(s: S, x: S::F) -> S::F {
    whole_and_rest(s, x, [1.0, 0.693_124_2, 0.240_240_99, 0.055_906_426, 0.009_582_853])
}

/// x = n + r, |r| <= 1/2, `c` a minimax fit of 2^r that is 1 for r = 0, and n is added to the exponent of the result: all of
/// them cheap instructions. Adding 1.5 2^23 leaves n in the low bits.
#[inline(always)]
fn whole_and_rest<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    // max returns its second argument for NaN.
    let x = s.max(s.splat(-127.0), x);
    let shifter = s.splat(1.5 * FIXED);
    let shifted = s.add(x, shifter);
    let r = s.sub(x, s.sub(shifted, shifter));
    s.of_bits(s.add_i(s.bits(polynomial(s, r, c)), s.shl::<23>(s.bits(shifted))))
}

/// Sine and cosine of `quarters` quarter turns (each pi / 2), |quarters| <= 1/2, plus `whole` more, within 2^-23 of 1.
///
/// Minimax polynomials on [-pi/4, pi/4] (Cephes, sinf and cosf), then signs and roles by the quadrant.
#[inline(always)]
pub fn sin_cos_quarters<S: Simd>(s: S, quarters: S::F, whole: S::I) -> (S::F, S::F) {
    let x = s.mul(quarters, s.splat(std::f32::consts::FRAC_PI_2));
    let z = s.mul(x, x);
    let p = polynomial(s, z, [-0.166_666_55, 0.008_332_161, -0.000_195_152_96]);
    let sin = s.fast_fma(s.mul(z, x), p, x);
    let cos = polynomial(s, z, [1.0, -0.5, 0.041_666_646, -0.001_388_731_6, 0.000_024_433_157]);
    let odd = s.eq_i(s.and(whole, s.splat_i(1)), s.splat_i(1));
    let (sin, cos) = (s.select(odd, cos, sin), s.select(odd, sin, cos));
    let sign = s.shl::<30>(s.and(whole, s.splat_i(2)));
    let cos_sign = s.shl::<30>(s.and(s.add_i(whole, s.splat_i(1)), s.splat_i(2)));
    (s.of_bits(s.xor(s.bits(sin), sign)), s.of_bits(s.xor(s.bits(cos), cos_sign)))
}

/// 2^23: the unit of the arguments of [`exp2_fixed`] and its kin, which [`fixed`] or [`fixed_nonpositive`] made.
pub const FIXED: f32 = (1 << 23) as f32;

/// t in the range of [`exp2_fixed`]: from -127 to 128 powers of two. NaN stays NaN.
#[inline(always)]
pub fn fixed<S: Simd>(s: S, t: S::F) -> S::F {
    s.min(s.splat(128.0 * FIXED), fixed_nonpositive(s, t))
}

/// [`fixed`] of t <= 0.
#[inline(always)]
pub fn fixed_nonpositive<S: Simd>(s: S, t: S::F) -> S::F {
    // min and max return their second argument for NaN.
    s.max(s.splat(-127.0 * FIXED), t)
}

/// 2^(t / 2^23) within 3e-7 of its value while |t| < 2^26, within 2e-6 elsewhere; 0 for -127 powers of two, infinity for
/// 128, and something for NaN: a caller lets NaN pass in another way.
#[inline(always)]
pub fn exp2_fixed<S: Simd>(s: S, t: S::F) -> S::F {
    fixed_power(s, t, [0.498_363_14, 0.353_489_7, 0.108_195_59, 0.038_403_094, -0.000_318_620_9, 0.001_867_130_2])
}

/// [`exp2_fixed`] within 6e-6 of its value, for differences that are stored as bf16.
#[inline(always)]
pub fn exp2_fixed_rough<S: Simd>(s: S, t: S::F) -> S::F {
    fixed_power(s, t, [0.509_419_56, 0.313_505_1, 0.165_112_9, -0.001_464_268_9, 0.013_426_686])
}

/// [`exp2_fixed`] within 1e-4 of its value, for products that are stored as bf16, which rounds by 2e-3.
#[inline(always)]
pub fn exp2_fixed_coarse<S: Simd>(s: S, t: S::F) -> S::F {
    fixed_power(s, t, [0.455_461_14, 0.471_027_97, -0.003_556_167, 0.077_067_05])
}

/// Rounded to an integer, t holds the exponent in its high bits and a mantissa f in the low ones; `c` is a minimax fit of
/// 2^(f - 1) on [1, 2] that is 1 for f = 1, so that the ends of the range are 0 and infinity exactly.
///
/// Neither rounds to an integral float nor scales by a power of two: these cost several multiplications each where
/// vectors are wider than the machine's units.
#[inline(always)]
fn fixed_power<S: Simd, const N: usize>(s: S, t: S::F, c: [f32; N]) -> S::F {
    let i = s.to_i(t);
    let f = s.of_bits(s.or(s.and(i, s.splat_i(0x007f_ffff)), s.splat_i(0x3f80_0000)));
    let exponent = s.and(i, s.splat_i(0xff80_0000_u32 as i32));
    s.of_bits(s.add_i(s.bits(polynomial(s, f, c)), exponent))
}

/// sigma = 1 / (1 + e^-z) and its slope sigma (1 - sigma), within 1e-5 of sigma and of the slope, for differences that are
/// stored as bf16. `t` is -|z| log2(e) 2^23, `negative` tells the lanes where z < 0. NaN gives something.
#[inline(always)]
pub fn logistic_rough<S: Simd>(s: S, t: S::F, negative: S::M) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let power = exp2_fixed_rough(s, fixed_nonpositive(s, t));
    // One Newton step from the estimate: the denominator lies between 1 and 2.
    let denominator = s.add(power, one);
    let estimate = s.reciprocal(denominator);
    let large = s.mul(estimate, s.sub(s.splat(2.0), s.mul(denominator, estimate)));
    let small = s.mul(power, large);
    (s.select(negative, small, large), s.mul(small, large))
}
