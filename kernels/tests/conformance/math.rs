//! The transcendental functions against f64, at every level.

use crate::harness::levels;
use scalert_kernels::backend::cpu::{Cpu, Element, Inline, Kernel, Simd, math};
use scalert_kernels::dtype::{bf16, bf16_bits_nearest_even, f16};
use scalert_kernels::ops::gelu::reference;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Exp,
    Exp2,
    Log,
    LogSameBits,
    SinTurn,
    CosTurn,
    Tanh,
    Erf,
    Sigmoid,
    NormalTail,
    NormalPower,
    Exp2Fixed,
    Exp2FixedRough,
    Exp2FixedCoarse,
    Exp2NonpositiveBf16,
    Exp2NonpositiveRough,
}

struct Apply<'a> {
    function: Function,
    values: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for values in self.values.chunks_exact_mut(S::LANES) {
            // SAFETY: the chunk has LANES elements.
            let x = unsafe { s.load(values.as_ptr()) };
            let y = match self.function {
                Function::Exp => math::exp(s, x),
                Function::Exp2 => math::exp2(s, x),
                Function::Log => math::log(s, x),
                Function::LogSameBits => math::log_same_bits(s, x),
                Function::SinTurn => math::sin_cos_turn(s, s.bits(x)).0,
                Function::CosTurn => math::sin_cos_turn(s, s.bits(x)).1,
                Function::Tanh => math::tanh(s, x),
                Function::Erf => math::erf(s, x),
                Function::Sigmoid => math::sigmoid(s, x),
                Function::NormalTail => math::normal_tail(s, x).0,
                Function::NormalPower => math::normal_tail(s, x).1,
                Function::Exp2Fixed => math::exp2_fixed(s, fixed(s, x)),
                Function::Exp2FixedRough => math::exp2_fixed_rough(s, fixed(s, x)),
                Function::Exp2FixedCoarse => math::exp2_fixed_coarse(s, fixed(s, x)),
                Function::Exp2NonpositiveBf16 => math::exp2_nonpositive_bf16(s, x),
                Function::Exp2NonpositiveRough => math::exp2_nonpositive_rough(s, x),
            };
            // SAFETY: as above.
            unsafe { s.store(values.as_mut_ptr(), y) };
        }
    }
}

/// x as the argument of powers of two in fixed point.
#[inline(always)]
fn fixed<S: Simd>(s: S, x: S::F) -> S::F {
    math::fixed(s, s.mul(x, s.splat(math::FIXED)))
}

/// Bit patterns `step` apart from `first` to `last`, and the ends of the range.
fn sweep(first: f32, last: f32, step: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (first.to_bits()..=last.to_bits()).step_by(step).map(f32::from_bits).collect();
    x.push(last);
    x
}

fn negated(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| -x).collect()
}

/// Size of the last place of the f32 nearest to `x`; the smallest denormal at least.
fn ulp(x: f64) -> f64 {
    let exponent = if x == 0.0 { -149 } else { (x.abs().log2().floor() as i32 - 23).max(-149) };
    2f64.powi(exponent)
}

/// Applies `function` at every level and requires an error of at most `bound(x)` ulp of `exact(x)`.
fn check(function: Function, x: &[f32], exact: impl Fn(f64) -> f64, bound: impl Fn(f64) -> f64) {
    let expected: Vec<f64> = x.iter().map(|x| exact(f64::from(*x))).collect();
    for level in levels() {
        let mut y = x.to_vec();
        y.resize(x.len().next_multiple_of(16), 0.0);
        Cpu::new(level, &Inline, &mut []).dispatch(Apply { function, values: &mut y });
        let mut worst = (0.0, 0.0);
        for ((&x, &e), &y) in x.iter().zip(&expected).zip(&y) {
            let y = f64::from(y);
            if e.is_nan() || y.is_nan() || e.is_infinite() || y.is_infinite() {
                // Beyond the largest f32 infinity is right.
                let overflow = y.is_infinite() && e.abs() > f64::from(f32::MAX) && y.signum() == e.signum();
                assert!((e.is_nan() && y.is_nan()) || y == e || overflow, "{function:?} of {x} is {y}, not {e}");
                continue;
            }
            let error = (y - e).abs() / ulp(e);
            let share = error / bound(f64::from(x));
            assert!(share <= 1.0, "{} {function:?} of {x:e} is {y:e}, not {e:e}: {error} ulp", level.name());
            if error > worst.0 {
                worst = (error, f64::from(x));
            }
        }
        println!("{} {function:?}: {:.3} ulp at {:e}", level.name(), worst.0, worst.1);
    }
}

const SPECIAL: [f32; 12] = [
    0.0,
    -0.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    1.0,
];

#[test]
fn exp_is_within_its_bound() {
    let positive = sweep(1e-45, 200.0, 1009);
    for x in [&positive, &negated(&positive), &SPECIAL.to_vec()] {
        check(Function::Exp, x, f64::exp, |_| 1.5);
    }
}

#[test]
fn exp2_is_within_its_bound() {
    let (positive, negative) = (sweep(1e-45, 250.0, 1009), negated(&sweep(1e-45, f32::MAX, 1009)));
    for x in [positive, negative, vec![0.0, -0.0, f32::NAN, f32::NEG_INFINITY]] {
        check(Function::Exp2, &x, f64::exp2, |_| 1.5);
    }
}

#[test]
fn cheap_powers_of_two_are_within_their_bounds() {
    // Below 2^-126 there is 0 or a denormal, whose last place these functions do not promise.
    let (positive, negative) = (sweep(1e-45, 127.999, 1009), negated(&sweep(1e-45, 126.0, 1009)));
    let ulps = |relative: f64| move |x: f64| relative * x.exp2() / ulp(x.exp2());
    for (function, bound) in
        [(Function::Exp2Fixed, 3e-7), (Function::Exp2FixedRough, 6e-6), (Function::Exp2FixedCoarse, 1e-4)]
    {
        for x in [&positive, &negative] {
            // The argument in fixed point has 24 bits.
            check(function, x, f64::exp2, |x| ulps(bound)(x) + x.abs() / 8.0);
        }
        let ends = [-127.0, -500.0, f32::NEG_INFINITY, 0.0, -0.0, 1.0, 128.0, f32::INFINITY];
        check(function, &ends, |x| if x <= -127.0 { 0.0 } else { x.exp2() }, |_| 0.5);
    }
    for (function, bound) in [(Function::Exp2NonpositiveBf16, 4e-7), (Function::Exp2NonpositiveRough, 4e-6)] {
        check(function, &negative, f64::exp2, ulps(bound));
        let ends = [-127.0, -500.0, f32::NEG_INFINITY, 0.0, -0.0, -1.0, f32::NAN];
        check(function, &ends, |x| if x <= -127.0 { 0.0 } else { x.exp2() }, |_| 0.5);
    }
}

/// Sines and cosines of each angle with each of four quarters more.
struct SinCos<'a> {
    quarters: &'a [f32],
    sines: [&'a mut [f32]; 4],
    cosines: [&'a mut [f32]; 4],
}

impl Kernel for SinCos<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.quarters.len()).step_by(S::LANES) {
            for whole in 0..4 {
                // SAFETY: the lengths are a multiple of LANES.
                unsafe {
                    let x = s.load(self.quarters.as_ptr().add(at));
                    let (sin, cos) = math::sin_cos_quarters(s, x, s.splat_i(whole - 8));
                    s.store(self.sines[whole as usize].as_mut_ptr().add(at), sin);
                    s.store(self.cosines[whole as usize].as_mut_ptr().add(at), cos);
                }
            }
        }
    }
}

#[test]
fn sines_and_cosines_are_within_their_bound() {
    let quarters: Vec<f32> = (0..1 << 16).map(|i| (i as f32 + 0.37) / 65536.0 - 0.5).collect();
    for level in levels() {
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = [(); 8].map(|()| quarters.clone());
        let (sines, cosines) = ([&mut a[..], &mut b, &mut c, &mut d], [&mut e[..], &mut f, &mut g, &mut h]);
        Cpu::new(level, &Inline, &mut []).dispatch(SinCos { quarters: &quarters, sines, cosines });
        for (whole, (sines, cosines)) in [(a, e), (b, f), (c, g), (d, h)].into_iter().enumerate() {
            for (i, &quarter) in quarters.iter().enumerate() {
                let angle = (f64::from(quarter) + whole as f64) * std::f64::consts::FRAC_PI_2;
                let (sin, cos) = (f64::from(sines[i]), f64::from(cosines[i]));
                let error = (sin - angle.sin()).abs().max((cos - angle.cos()).abs());
                assert!(error <= 2f64.powi(-23), "{}: {quarter} + {whole}: {sin} {cos}", level.name());
            }
        }
    }
}

#[test]
fn log_is_within_its_bound() {
    for x in [sweep(1e-45, f32::MAX, 1009), sweep(0.5, 2.0, 7), SPECIAL.to_vec(), vec![-1.0, -1e-40, -1e30]] {
        check(Function::Log, &x, f64::ln, |_| 1.5);
    }
}

#[test]
fn log_same_bits_is_within_its_bound() {
    for x in [sweep(1e-45, f32::MAX, 1009), sweep(0.5, 2.0, 7), SPECIAL.to_vec(), vec![-1.0, -1e-40, -1e30]] {
        check(Function::LogSameBits, &x, f64::ln, |_| 1.5);
    }
}

#[test]
fn sines_and_cosines_of_a_turn_are_within_their_bound() {
    let mut turns: Vec<u32> = (0..=u32::MAX).step_by(4099).collect();
    let eighths = (0..8u32).flat_map(|k| [-1i32, 0, 1].map(|d| (k << 29).wrapping_add_signed(d)));
    turns.extend(eighths);
    turns.resize(turns.len().next_multiple_of(16), 0);
    for function in [Function::SinTurn, Function::CosTurn] {
        let exact = if function == Function::SinTurn { f64::sin } else { f64::cos };
        for level in levels() {
            let mut y: Vec<f32> = turns.iter().map(|t| f32::from_bits(*t)).collect();
            Cpu::new(level, &Inline, &mut []).dispatch(Apply { function, values: &mut y });
            for (turn, y) in turns.iter().zip(&y) {
                let e = exact(std::f64::consts::TAU * f64::from(*turn) / 2f64.powi(32));
                assert!(
                    (f64::from(*y) - e).abs() <= 2e-7,
                    "{} {function:?} of {turn:#x} is {y}, not {e}",
                    level.name()
                );
            }
        }
    }
}

#[test]
fn what_promises_the_same_bits_has_them_at_every_level() {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).collect();
    x.truncate(x.len() / 16 * 16);
    for function in [Function::LogSameBits, Function::SinTurn, Function::CosTurn] {
        let at = |level| {
            let mut y = x.clone();
            Cpu::new(level, &Inline, &mut []).dispatch(Apply { function, values: &mut y });
            y
        };
        let first = at(levels()[0]);
        for level in levels() {
            for ((x, a), b) in x.iter().zip(at(level)).zip(&first) {
                let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                assert!(same, "{} {function:?} of {x:e}: {a:e}, not {b:e}", level.name());
            }
        }
    }
}

#[test]
fn tanh_is_within_its_bound() {
    let positive = sweep(1e-45, f32::MAX, 1009);
    for x in [&positive, &negated(&positive), &sweep(0.1, 12.0, 37), &SPECIAL.to_vec()] {
        check(Function::Tanh, x, f64::tanh, |_| 2.0);
    }
}

#[test]
fn erf_is_within_its_bound() {
    let positive = sweep(1e-45, f32::MAX, 2003);
    for x in [&positive, &negated(&positive), &sweep(0.1, 5.0, 101), &SPECIAL.to_vec()] {
        check(Function::Erf, x, reference::erf, |_| 2.0);
    }
}

#[test]
fn sigmoid_is_within_its_bound() {
    let positive = sweep(1e-45, 87.0, 1009);
    let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
    for x in [&positive, &negated(&positive), &SPECIAL.to_vec()] {
        check(Function::Sigmoid, x, exact, |_| 2.5);
    }
    // Below the smallest normal value the error is absolute.
    check(Function::Sigmoid, &negated(&sweep(87.0, 1e6, 1009)), exact, |_| 1e-38 / ulp(0.0));
}

#[test]
fn the_normal_tail_is_within_its_bound() {
    let x = [sweep(1e-45, 14.9, 1009), vec![0.0, 20.0, 1e30, f32::INFINITY, f32::NAN]].concat();
    let tail = |x: f64| if x > 15.0 { 0.0 } else { 0.5 * reference::erfc(x * std::f64::consts::FRAC_1_SQRT_2) };
    check(Function::NormalTail, &x, tail, |x| 4.0 + x * x);
    let power = |x: f64| if x > 15.0 { 0.0 } else { (-x * x / 2.0).exp() };
    check(Function::NormalPower, &x, power, |x| 2.0 + x * x);
}

#[test]
fn zero_keeps_its_sign() {
    for level in levels() {
        for function in [Function::Tanh, Function::Erf] {
            let mut y = [-0.0f32; 16];
            Cpu::new(level, &Inline, &mut []).dispatch(Apply { function, values: &mut y });
            assert!(y.iter().all(|y| y.to_bits() == (-0.0f32).to_bits()), "{function:?} of -0 lost its sign");
        }
    }
}

struct Round<'a, T> {
    x: &'a [f32],
    y: &'a mut [T],
}

impl<T: Element> Kernel for Round<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.x.chunks_exact(S::LANES).zip(self.y.chunks_exact_mut(S::LANES)) {
            // SAFETY: both chunks have LANES elements.
            unsafe { T::store(s, y.as_mut_ptr(), s.load(x.as_ptr())) };
        }
    }
}

#[test]
fn vectors_round_as_scalars_do() {
    // The second stride meets every tie of bf16, even and odd.
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(809).map(f32::from_bits).collect();
    x.extend((0..=u32::MAX).step_by(1 << 15).map(f32::from_bits));
    x.truncate(x.len() / 16 * 16);
    let mut bfloats = vec![bf16::ZERO; x.len()];
    let mut halves = vec![f16::ZERO; x.len()];
    for level in levels() {
        Cpu::new(level, &Inline, &mut []).dispatch(Round { x: &x, y: &mut bfloats });
        Cpu::new(level, &Inline, &mut []).dispatch(Round { x: &x, y: &mut halves });
        for ((x, b), h) in x.iter().zip(&bfloats).zip(&halves) {
            assert_eq!(b.to_bits(), bf16_bits_nearest_even(x.to_bits()), "{} bf16 of {x:e}", level.name());
            let same = h.to_bits() == f16::from_f32(*x).to_bits() || (h.is_nan() && x.is_nan());
            assert!(same, "{} f16 of {x:e} is {h:e}", level.name());
        }
    }
}

/// The f64 reference of erf against published values (Abramowitz & Stegun, table 7.1; DLMF 7.23).
#[test]
fn the_reference_of_erf_has_the_published_values() {
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-13 * b.abs(), "{a:e} is not {b:e}");
    close(reference::erf(0.5), 0.520_499_877_813_046_5);
    close(reference::erf(1.0), 0.842_700_792_949_714_9);
    close(reference::erf(-2.0), -0.995_322_265_018_952_7);
    close(reference::erfc(3.0), 2.209_049_699_858_544e-5);
    close(reference::erfc(5.0), 1.537_459_794_428_034_8e-12);
    close(reference::erfc(10.0), 2.088_487_583_762_545e-45);
    // Where the two expansions meet.
    close(reference::erfc(1.5 - 1e-15), reference::erfc(1.5));
}
