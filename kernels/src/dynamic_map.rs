//! 8-bit codes of numbers, one scale for each block of 256: blockwise dynamic quantisation (Dettmers, Lewis, Shleifer &
//! Zettlemoyer 2022, "8-bit optimizers via block-wise quantization"), with the codes of bitsandbytes'
//! `create_dynamic_map(signed, max_exponent_bits = 7, total_bits = 8)` in ascending order.
//!
//! A map has 256 values in seven decades. Decade i = 0, …, 6 has n evenly spaced values between P / 10 and P =
//! 10^(i-6), n = 2^i of each sign in the signed map and 2^(i+1) in the unsigned; besides them there are 0 and 1. Value
//! k of a decade, in f32:
//!
//! ```text
//! signed:   code = 127 +- (2^i + k)      value = +- fma(2 k + 1, 0.45 P / n, 0.1 P)          0: code 127, 1: code 255
//! unsigned: code = 2^(i+1) - 1 + k       value = fma(k, 0.9 P / n, P (0.1 + 0.45 / n))       0: code 0,   1: code 255
//! ```
//!
//! **Decoding:** x = value * absmax.
//!
//! **Encoding** a block: absmax is the largest magnitude; x is stored as the code nearest to r = x * (1 / absmax), each
//! operation rounded to f32. With the rank of a code, which counts magnitudes from 0 up, rank_0 that of a decade's
//! first value and r a magnitude, that is rank = round(fma(r, n / (0.9 P), rank_0 - n / 9 - 1/2)), ties to even, and no
//! more than the decade's last. Half-way between two decades, which r = P (1 + 0.9 / n) is, and half-way to 0 and to 1,
//! r goes to the larger. What is negative has the code 0 in the unsigned map; the signed map has no -1.
//!
//! - A block whose absmax is below 2^-126 becomes zeros: absmax = 0.
//! - A block with a value that is not finite becomes NaN: absmax = NaN, and the codes are those of 0.
//!
//! The same bits at every level and on every device.

use crate::backend::cpu::Simd;

/// Elements that have a scale of their own.
pub const BLOCK: usize = 256;

/// Smallest absmax but 0: that of normal numbers, whose reciprocals are finite.
pub const LEAST: f32 = f32::MIN_POSITIVE;

/// Which numbers a map is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// Of both signs.
    Signed,
    /// Not negative.
    Unsigned,
}

/// A map as arithmetic: what decodes and encodes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicMap {
    /// Of the piece with 2^e <= j, in entry e mod 16, where j is 2 |code - 127| + 1 in the signed and code + 1 in the
    /// unsigned map: value = fma(j - 2^e, step, first). The exponent of an f32 has a bias of 127, so entry 15 is e = 0.
    step: [f32; 16],
    first: [f32; 16],
    /// Of r in \[2^b, 2^(b+1)), in entry b + 31: what r must reach to belong to the piece of the next entry.
    threshold: [f32; 32],
    /// Of the piece: rank = round(min(fma(r, slope, offset), last)), where the rank counts magnitudes from 0.
    slope: [f32; 32],
    offset: [f32; 32],
    last: [f32; 32],
    signed: u32,
}

/// Decades.
const DECADES: usize = 7;

/// 10^(i - 6).
const POWERS: [f64; DECADES] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Values of decade i of one sign.
const fn values(sign: Sign, i: usize) -> f64 {
    match sign {
        Sign::Signed => (1 << i) as f64,
        Sign::Unsigned => (2 << i) as f64,
    }
}

/// Half-way between piece i and the next: the pieces are 0, the decades, and 1.
const fn midpoint(sign: Sign, i: usize) -> f64 {
    match i {
        0 => POWERS[0] * (0.1 + 0.45 / values(sign, 0)) / 2.0,
        DECADES => 1.0 - 0.225 / values(sign, DECADES - 1),
        _ => POWERS[i - 1] * (1.0 + 0.9 / values(sign, i - 1)),
    }
}

impl DynamicMap {
    /// For numbers of both signs.
    pub const SIGNED: DynamicMap = DynamicMap::new(Sign::Signed);
    /// For numbers that are not negative.
    pub const UNSIGNED: DynamicMap = DynamicMap::new(Sign::Unsigned);

    /// The map for numbers of this sign.
    pub const fn of(sign: Sign) -> &'static DynamicMap {
        match sign {
            Sign::Signed => &DynamicMap::SIGNED,
            Sign::Unsigned => &DynamicMap::UNSIGNED,
        }
    }

    const fn new(sign: Sign) -> DynamicMap {
        let mut map = DynamicMap {
            step: [0.0; 16],
            first: [0.0; 16],
            threshold: [f32::INFINITY; 32],
            slope: [0.0; 32],
            offset: [0.0; 32],
            last: [0.0; 32],
            signed: matches!(sign, Sign::Signed) as u32,
        };
        // Piece 0 is 0, which `step` and `first` decode to.
        let mut i = 0;
        while i < DECADES {
            let (p, n) = (POWERS[i], values(sign, i));
            map.step[i] = (if map.signed == 1 { 0.45 * p / n } else { 0.9 * p / n }) as f32;
            map.first[i] = (if map.signed == 1 { 0.1 * p } else { p * (0.1 + 0.45 / n) }) as f32;
            i += 1;
        }
        map.first[DECADES] = 1.0;
        let mut entry = 0;
        while entry < 32 {
            // 2^(entry - 31), exactly.
            let start = 1.0 / (1u64 << (31 - entry)) as f64;
            let mut piece = 0;
            while piece <= DECADES && midpoint(sign, piece) <= start {
                piece += 1;
            }
            if piece <= DECADES && midpoint(sign, piece) < 2.0 * start {
                map.threshold[entry] = midpoint(sign, piece) as f32;
            }
            // Rank of the decade's first value.
            let unsigned = 1.0 - map.signed as f64;
            if piece == 0 {
                // 0, as the arrays are.
            } else if piece <= DECADES {
                let (p, n) = (POWERS[piece - 1], values(sign, piece - 1));
                let rank = n - unsigned;
                map.slope[entry] = (n / (0.9 * p)) as f32;
                map.offset[entry] = (rank - n / 9.0 - 0.5) as f32;
                map.last[entry] = (rank + n - 1.0) as f32;
            } else {
                map.offset[entry] = (values(sign, DECADES) - unsigned) as f32;
                map.last[entry] = map.offset[entry];
            }
            entry += 1;
        }
        map
    }

    /// What decodes vectors.
    #[inline(always)]
    pub fn decoder<S: Simd>(&self, s: S) -> Decoder<S> {
        Decoder { step: s.table16(&self.step), first: s.table16(&self.first) }
    }

    /// What encodes vectors.
    #[inline(always)]
    pub fn encoder<S: Simd>(&self, s: S) -> Encoder<S> {
        Encoder {
            threshold: s.table32(&self.threshold),
            slope: s.table32(&self.slope),
            offset: s.table32(&self.offset),
            last: s.table32(&self.last),
        }
    }

    /// Which numbers it is for.
    #[inline(always)]
    pub fn sign(&self) -> Sign {
        if self.signed == 1 { Sign::Signed } else { Sign::Unsigned }
    }

    /// The value of a code.
    pub fn value(&self, code: u8) -> f32 {
        let j = if self.signed == 1 { 2 * (i32::from(code) - 127).abs() + 1 } else { i32::from(code) + 1 };
        let e = j.ilog2() as usize;
        let value = ((j - (1 << e)) as f32).mul_add(self.step[(e + 15) % 16], self.first[(e + 15) % 16]);
        if self.signed == 1 && code < 127 { -value } else { value }
    }
}

/// A map at a level, which decodes.
#[derive(Clone, Copy)]
pub struct Decoder<S: Simd> {
    step: S::Table16,
    first: S::Table16,
}

impl<S: Simd> Decoder<S> {
    /// The values of codes of a map that is `SIGNED` or not.
    #[inline(always)]
    pub fn decode<const SIGNED: bool>(&self, s: S, code: S::I) -> S::F {
        let (j, sign) = if SIGNED {
            let x = s.sub(s.to_f(code), s.splat(127.0));
            (s.fma(s.abs(x), s.splat(2.0), s.splat(1.0)), s.and(s.bits(x), s.splat_i(i32::MIN)))
        } else {
            (s.add(s.to_f(code), s.splat(1.0)), s.splat_i(0))
        };
        let bits = s.bits(j);
        let power = s.of_bits(s.and(bits, s.splat_i(0x7f80_0000)));
        let piece = s.shr::<23>(bits);
        let value = s.fma(s.sub(j, power), s.lookup16(self.step, piece), s.lookup16(self.first, piece));
        if SIGNED { s.of_bits(s.or(s.bits(value), sign)) } else { value }
    }
}

/// A map at a level, which encodes.
#[derive(Clone, Copy)]
pub struct Encoder<S: Simd> {
    threshold: S::Table32,
    slope: S::Table32,
    offset: S::Table32,
    last: S::Table32,
}

impl<S: Simd> Encoder<S> {
    /// The codes nearest to `x * inverse` of a map that is `SIGNED` or not.
    #[inline(always)]
    pub fn encode<const SIGNED: bool>(&self, s: S, x: S::F, inverse: S::F) -> S::I {
        let r = s.mul(x, inverse);
        // NaN, of blocks without a scale, becomes the least.
        let least = s.splat(1.0 / (1u64 << 31) as f32);
        let r = s.max(if SIGNED { s.abs(r) } else { r }, least);
        let binade = s.shr::<23>(s.bits(r));
        let reached = s.le(s.lookup32(self.threshold, binade), r);
        let piece = s.select_i(reached, s.add_i(binade, s.splat_i(1)), binade);
        let rank = s.fma(r, s.lookup32(self.slope, piece), s.lookup32(self.offset, piece));
        let rank = s.min(rank, s.lookup32(self.last, piece));
        if !SIGNED {
            return s.nearest_i(rank);
        }
        let rank = s.of_bits(s.or(s.bits(rank), s.and(s.bits(x), s.splat_i(i32::MIN))));
        s.max_i(s.add_i(s.nearest_i(rank), s.splat_i(127)), s.splat_i(0))
    }
}

/// The scale of a block whose largest magnitude, as an integer, is `bits`; and what its values are multiplied by.
#[inline(always)]
pub fn scale_of(bits: i32) -> (f32, f32) {
    let largest = f32::from_bits(bits as u32);
    let absmax = if bits >= f32::INFINITY.to_bits() as i32 {
        f32::NAN
    } else if largest < LEAST {
        0.0
    } else {
        largest
    };
    // By infinity, what is denormal would encode as 1.
    (absmax, if absmax == 0.0 { 0.0 } else { 1.0 / absmax })
}
