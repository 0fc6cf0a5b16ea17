//! Storage element types as vectors of f32.

use super::simd::Simd;
use crate::dtype::{DType, bf16, bf16_bits_nearest_away, bf16_bits_nearest_even, f16};

/// A floating-point storage type: loaded as f32 lanes, stored rounded to nearest even.
pub trait Element: Copy + Send + Sync + 'static {
    /// Its dtype.
    const DTYPE: DType;
    /// Whether of the pairs of [`Element::load_pair`] and [`Element::store_pair`] the first vector has the elements of even
    /// and the second those of odd index; else the first has the first LANES elements.
    const INTERLEAVED: bool = false;
    /// Exact value as f32.
    fn to_f32(self) -> f32;
    /// Nearest value, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Reads LANES elements.
    ///
    /// # Safety
    /// `p` is valid for reads of LANES elements.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    /// Reads `n < LANES` elements; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    unsafe fn load_partial<S: Simd>(s: S, p: *const Self, n: usize) -> S::F;
    /// Writes LANES elements, rounded to nearest even.
    ///
    /// # Safety
    /// `p` is valid for writes of LANES elements.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, x: S::F);
    /// Writes the first `n < LANES` lanes, rounded to nearest even.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    unsafe fn store_partial<S: Simd>(s: S, p: *mut Self, x: S::F, n: usize);

    /// Reads 2 LANES elements.
    ///
    /// # Safety
    /// `p` is valid for reads of 2 LANES elements.
    #[inline(always)]
    unsafe fn load_pair<S: Simd>(s: S, p: *const Self) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { [Self::load(s, p), Self::load(s, p.add(S::LANES))] }
    }
    /// Writes 2 LANES elements in the order of [`Element::load_pair`].
    ///
    /// # Safety
    /// `p` is valid for writes of 2 LANES elements.
    #[inline(always)]
    unsafe fn store_pair<S: Simd>(s: S, p: *mut Self, x: [S::F; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            Self::store(s, p, x[0]);
            Self::store(s, p.add(S::LANES), x[1]);
        }
    }

    /// Reads `n` elements, or LANES if that is fewer; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of min(n, LANES) elements.
    #[inline(always)]
    unsafe fn load_up_to<S: Simd>(s: S, p: *const Self, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { if n >= S::LANES { Self::load(s, p) } else { Self::load_partial(s, p, n) } }
    }
    /// Writes the first `n` lanes, or LANES if that is fewer, rounded to nearest even.
    ///
    /// # Safety
    /// `p` is valid for writes of min(n, LANES) elements.
    #[inline(always)]
    unsafe fn store_up_to<S: Simd>(s: S, p: *mut Self, x: S::F, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { if n >= S::LANES { Self::store(s, p, x) } else { Self::store_partial(s, p, x, n) } }
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, x: S::F) {
        // SAFETY: the caller's promise.
        unsafe { s.store(p, x) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(s: S, p: *mut f32, x: S::F, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { s.store_partial(p, x, n) }
    }
}

macro_rules! half_element {
    ($t:ty, $dtype:expr, $to:expr, $from:expr, $widen:ident, $narrow:ident $(, $round:ident)?) => {
        impl Element for $t {
            const DTYPE: DType = $dtype;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(x: f32) -> $t {
                $from(x)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const $t) -> S::F {
                // SAFETY: the caller's promise.
                s.$widen(unsafe { s.load_u16(p.cast()) })
            }
            #[inline(always)]
            unsafe fn load_partial<S: Simd>(s: S, p: *const $t, n: usize) -> S::F {
                // SAFETY: the caller's promise.
                s.$widen(unsafe { s.load_u16_partial(p.cast(), n) })
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, p: *mut $t, x: S::F) {
                // SAFETY: the caller's promise.
                unsafe { s.store_u16(p.cast(), s.$narrow(x)) }
            }
            #[inline(always)]
            unsafe fn store_partial<S: Simd>(s: S, p: *mut $t, x: S::F, n: usize) {
                // SAFETY: the caller's promise.
                unsafe { s.store_u16_partial(p.cast(), s.$narrow(x), n) }
            }
            $(
                const INTERLEAVED: bool = true;
                #[inline(always)]
                unsafe fn load_pair<S: Simd>(s: S, p: *const $t) -> [S::F; 2] {
                    // SAFETY: the caller's promise.
                    s.pair_of_words(unsafe { s.load_words(p.cast()) })
                }
                #[inline(always)]
                unsafe fn store_pair<S: Simd>(s: S, p: *mut $t, x: [S::F; 2]) {
                    // SAFETY: the caller's promise.
                    unsafe { s.store_words(p.cast(), s.high_halves([s.$round(x[0]), s.$round(x[1])])) }
                }
            )?
        }
    };
}

half_element!(
    bf16,
    DType::BF16,
    bf16::to_f32,
    |x: f32| bf16::from_bits(bf16_bits_nearest_even(x.to_bits())),
    bf16_to_f32,
    f32_to_bf16,
    round_to_bf16
);
half_element!(f16, DType::F16, f16::to_f32, f16::from_f32, f16_to_f32, f32_to_f16);

/// bf16 stored rounded to nearest with ties away from zero, as every optimizer writes weights back.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bf16Away(bf16);

half_element!(
    Bf16Away,
    DType::BF16,
    |x: Bf16Away| x.0.to_f32(),
    |x: f32| Bf16Away(bf16::from_bits(bf16_bits_nearest_away(x.to_bits()))),
    bf16_to_f32,
    f32_to_bf16_away,
    round_to_bf16_away
);

/// bf16 that stores what was computed from bf16 alone, with the fewest instructions: a result lies half-way between two
/// bf16 once in 65536, so ties may go away from zero; and a NaN that comes from a bf16 or from the processor has no low
/// bits that rounding could carry over.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bf16Computed(bf16);

half_element!(
    Bf16Computed,
    DType::BF16,
    |x: Bf16Computed| x.0.to_f32(),
    |x: f32| Bf16Computed(bf16::from_bits(bf16_bits_nearest_away(x.to_bits()))),
    bf16_to_f32,
    f32_to_bf16_computed,
    round_to_bf16_computed
);

/// The 16 bits of a bf16 or f16 as they are, in the low half of the f32's bits: for copies, and for maps that round by
/// themselves.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bits16(u16);

half_element!(
    Bits16,
    DType::BF16,
    |x: Bits16| f32::from_bits(x.0.into()),
    |x: f32| Bits16(x.to_bits() as u16),
    of_bits,
    bits
);

/// A byte in the low bits of the f32's: for codes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bits8(u8);

impl Element for Bits8 {
    const DTYPE: DType = DType::U8;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(self.0.into())
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Bits8 {
        Bits8(x.to_bits() as u8)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Bits8) -> S::F {
        // SAFETY: the caller's promise.
        s.of_bits(unsafe { s.load_u8(p.cast()) })
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(s: S, p: *const Bits8, n: usize) -> S::F {
        // SAFETY: the caller's promise.
        s.of_bits(unsafe { s.load_u8_partial(p.cast(), n) })
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut Bits8, x: S::F) {
        // SAFETY: the caller's promise.
        unsafe { s.store_u8(p.cast(), s.bits(x)) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(s: S, p: *mut Bits8, x: S::F, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { s.store_u8_partial(p.cast(), s.bits(x), n) }
    }
}

/// x, a NaN without low bits: as what meets results that are rounded without care for NaN must be.
#[inline(always)]
pub(crate) fn plain_nan(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

/// A float type of tensors, and what results that are not exact are stored in it as.
pub(crate) trait Float: Element {
    /// The same bits in memory, stored with the fewest instructions.
    type Computed: Element;
}

impl Float for f32 {
    type Computed = f32;
}
impl Float for f16 {
    type Computed = f16;
}
impl Float for bf16 {
    type Computed = Bf16Computed;
}
