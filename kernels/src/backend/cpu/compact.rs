//! Compact storage of f32, in blocks of up to [`BLOCK`] elements: a bf16 and what it lacks, 8-bit codes with a scale,
//! and 16-bit floats that are rounded stochastically.

use super::span::{Span, each_vector};
use super::{Bits8, Bits16, MOST_LANES, Simd, stochastic};
use crate::dynamic_map::{BLOCK, DynamicMap, Sign, scale_of};
use crate::philox::{self, Key};

/// y = the f32 of which `weight` and `remainder` are the bits: (weight << 16) + remainder.
///
/// # Safety
/// All are valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn join<S: Simd>(s: S, weight: *const u16, remainder: *const i16, y: *mut f32, n: usize) {
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let high = span.load(s, weight.cast::<Bits16>().add(at));
            let low = span.load(s, remainder.cast::<Bits16>().add(at));
            span.store(s, y.add(at), join_vector(s, s.bits(high), s.bits(low)));
        }
    });
}

/// The f32 of the 16 bits of a weight and a remainder.
#[inline(always)]
fn join_vector<S: Simd>(s: S, weight: S::I, remainder: S::I) -> S::F {
    let sign = s.splat_i(0x8000);
    let words = s.or(s.shl::<16>(weight), s.xor(remainder, sign));
    s.of_bits(s.sub_i(words, sign))
}

/// x as a weight, the nearest bf16 with ties away from zero, and a remainder: the low 16 bits.
///
/// # Safety
/// All are valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn split<S: Simd>(s: S, x: *const f32, weight: *mut u16, remainder: *mut i16, n: usize) {
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let x = span.load(s, x.add(at));
            span.store(s, weight.cast::<Bits16>().add(at), s.of_bits(s.f32_to_bf16_away(x)));
            span.store(s, remainder.cast::<Bits16>().add(at), x);
        }
    });
}

/// The values of codes times their scale.
///
/// # Safety
/// `codes` and `y` are valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn decode<S: Simd>(s: S, map: &DynamicMap, codes: *const u8, absmax: f32, y: *mut f32, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match map.sign() {
            Sign::Signed => decode_as::<S, true>(s, map, codes, absmax, y, n),
            Sign::Unsigned => decode_as::<S, false>(s, map, codes, absmax, y, n),
        }
    }
}

/// [`decode`] with a map that is `SIGNED` or not.
///
/// # Safety
/// As of [`decode`].
#[inline(always)]
unsafe fn decode_as<S: Simd, const SIGNED: bool>(
    s: S,
    map: &DynamicMap,
    codes: *const u8,
    absmax: f32,
    y: *mut f32,
    n: usize,
) {
    let (decoder, absmax) = (map.decoder(s), s.splat(absmax));
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let code = s.bits(span.load(s, codes.cast::<Bits8>().add(at)));
            span.store(s, y.add(at), s.mul(decoder.decode::<SIGNED>(s, code), absmax));
        }
    });
}

/// The largest magnitude of a block, as an integer.
///
/// # Safety
/// `x` is valid for `n` elements.
#[inline(always)]
pub(crate) unsafe fn largest<S: Simd>(s: S, x: *const f32, n: usize) -> i32 {
    let mut largest = s.splat_i(0);
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        largest = s.max_i(largest, s.bits(s.abs(unsafe { span.load(s, x.add(at)) })));
    });
    s.max_lane_i(largest)
}

/// The codes of a block, the largest magnitude of which is `largest` as an integer, and its scale.
///
/// # Safety
/// `x` and `codes` are valid for `n` elements, `absmax` for one.
#[inline(always)]
pub(crate) unsafe fn encode<S: Simd>(
    s: S,
    map: &DynamicMap,
    x: *const f32,
    largest: i32,
    codes: *mut u8,
    absmax: *mut f32,
    n: usize,
) {
    let (scale, inverse) = scale_of(largest);
    // SAFETY: the caller's promise.
    unsafe {
        absmax.write(scale);
        match map.sign() {
            Sign::Signed => encode_as::<S, true>(s, map, x, inverse, codes, n),
            Sign::Unsigned => encode_as::<S, false>(s, map, x, inverse, codes, n),
        }
    }
}

/// The codes of `x * inverse` in a map that is `SIGNED` or not.
///
/// # Safety
/// `x` and `codes` are valid for `n` elements.
#[inline(always)]
unsafe fn encode_as<S: Simd, const SIGNED: bool>(
    s: S,
    map: &DynamicMap,
    x: *const f32,
    inverse: f32,
    codes: *mut u8,
    n: usize,
) {
    let (encoder, inverse) = (map.encoder(s), s.splat(inverse));
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let code = encoder.encode::<SIGNED>(s, span.load(s, x.add(at)), inverse);
            span.store(s, codes.cast::<Bits8>().add(at), s.of_bits(code));
        }
    });
}

/// Which part of an element's random word rounds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// All of it, the high bits first.
    High,
    /// The low 16 bits.
    Low,
}

/// x as bf16, rounded stochastically.
///
/// # Safety
/// `x` and `y` are valid for `n` elements, and `words` for as many and a vector more.
#[inline(always)]
pub(crate) unsafe fn store_bf16<S: Simd>(s: S, x: *const f32, words: *const i32, half: Half, y: *mut u16, n: usize) {
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let word = s.load_i(words.add(at));
            let random = if half == Half::Low { s.shl::<16>(word) } else { word };
            let bits = stochastic::bf16(s, span.load(s, x.add(at)), random);
            span.store(s, y.cast::<Bits16>().add(at), s.of_bits(bits));
        }
    });
}

/// x as f16, rounded stochastically.
///
/// # Safety
/// As of [`store_bf16`].
#[inline(always)]
pub(crate) unsafe fn store_f16<S: Simd>(s: S, x: *const f32, words: *const i32, y: *mut u16, n: usize) {
    each_vector!(S, n, |at, span| {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = stochastic::f16(s, span.load(s, x.add(at)), s.load_i(words.add(at)));
            span.store(s, y.cast::<Bits16>().add(at), s.of_bits(bits));
        }
    });
}

/// Room for the random words of a block that begins anywhere.
#[repr(align(64))]
pub(crate) struct Words([i32; BLOCK + 9 * MOST_LANES]);

impl Words {
    pub(crate) const fn new() -> Words {
        Words([0; BLOCK + 9 * MOST_LANES])
    }

    /// Draws the words of `n <= BLOCK` elements, the first of which is `index` of the stream.
    #[inline(always)]
    pub(crate) fn draw<S: Simd>(&mut self, s: S, key: Key, index: u64, n: usize) -> *const i32 {
        let group = 4 * S::LANES;
        let phase = (index % group as u64) as usize;
        let mut at = 0;
        while at < phase + n {
            let words = philox::words(s, key, index - phase as u64 + at as u64);
            for (k, words) in words.into_iter().enumerate() {
                // SAFETY: at < group + BLOCK, and a group is at most 4 MOST_LANES.
                unsafe { s.store_i(self.0.as_mut_ptr().add(at + k * S::LANES), words) };
            }
            at += group;
        }
        // SAFETY: phase < group; a vector past the n words still lies in the array.
        unsafe { self.0.as_ptr().add(phase) }
    }
}
