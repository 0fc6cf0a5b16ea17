//! AVX-512 F, BW, DQ and VL: sixteen lanes.
#![cfg(target_arch = "x86_64")]

use super::simd::{MOST_LANES, Simd, widening_dot_bf16};
use std::arch::x86_64::*;

/// Sixteen lanes of AVX-512; `DOT_BF16` when the code is also compiled for AVX512-BF16.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const DOT_BF16: bool>;

macro_rules! lanes {
    ($(fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty = $e:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            // SAFETY: `Avx512` is only used inside code that Level::dispatch compiled for a CPU that has AVX-512.
            #[allow(unused_unsafe)]
            unsafe {
                $e
            }
        })*
    };
}

/// The lower and the upper eight lanes as f64.
#[inline(always)]
fn widen(x: __m512) -> (__m512d, __m512d) {
    // SAFETY: as for the methods of Avx512.
    unsafe { (_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(x))) }
}

/// Bits below `n`.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Bits below `n`.
#[inline(always)]
fn first_words(n: usize) -> __mmask32 {
    ((1u64 << n) - 1) as __mmask32
}

/// 0, 16, 1, 17, … 15, 31.
const fn in_turn() -> [u16; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
}

impl<const DOT_BF16: bool> Simd for Avx512<DOT_BF16> {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const HAS_DOT_BF16: bool = DOT_BF16;
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    type D = (__m512d, __m512d);
    type Table16 = __m512;
    type Table32 = [__m512; 2];

    lanes! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn splat_i(x: i32) -> __m512i = _mm512_set1_epi32(x);
        fn iota() -> __m512i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn reciprocal(a: __m512) -> __m512 = _mm512_rcp14_ps(a);
        fn sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn fast_fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn round(a: __m512) -> __m512 =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        fn bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        fn of_bits(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        fn to_i(a: __m512) -> __m512i = _mm512_cvtps_epi32(a);
        fn nearest_i(a: __m512) -> __m512i = _mm512_cvtps_epi32(a);
        fn to_f(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        fn add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn sub_i(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        fn max_i(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epi32(a, b);
        fn table16(entries: &[f32; 16]) -> __m512 = _mm512_loadu_ps(entries.as_ptr());
        fn table32(entries: &[f32; 32]) -> [__m512; 2] =
            [_mm512_loadu_ps(entries.as_ptr()), _mm512_loadu_ps(entries.as_ptr().add(16))];
        fn lookup16(table: __m512, index: __m512i) -> __m512 = _mm512_permutexvar_ps(index, table);
        fn lookup32(table: [__m512; 2], index: __m512i) -> __m512 = _mm512_permutex2var_ps(table[0], index, table[1]);
        fn mul_lo(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        fn mul_hi_u(a: __m512i, b: __m512i) -> __m512i = {
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            _mm512_mask_blend_epi32(0b1010_1010_1010_1010, _mm512_srli_epi64::<32>(even), odd)
        };
        fn and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        fn lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        fn le(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b);
        fn gt_i(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpgt_epi32_mask(a, b);
        fn eq_i(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpeq_epi32_mask(a, b);
        fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        fn select_i(m: __mmask16, a: __m512i, b: __m512i) -> __m512i = _mm512_mask_blend_epi32(m, b, a);
        fn mask_bits(m: __mmask16) -> u32 = u32::from(m);
        fn zero_d() -> (__m512d, __m512d) = (_mm512_setzero_pd(), _mm512_setzero_pd());
        fn add_widened(a: (__m512d, __m512d), x: __m512) -> (__m512d, __m512d) = {
            let (low, high) = widen(x);
            (_mm512_add_pd(a.0, low), _mm512_add_pd(a.1, high))
        };
        fn add_squared(a: (__m512d, __m512d), x: __m512) -> (__m512d, __m512d) = {
            let (low, high) = widen(x);
            (_mm512_fmadd_pd(low, low, a.0), _mm512_fmadd_pd(high, high, a.1))
        };
        fn sum_sixteen(a: [(__m512d, __m512d); 2]) -> f64 = {
            let b = _mm512_add_pd(a[0].0, a[0].1);
            let c = _mm256_add_pd(_mm512_castpd512_pd256(b), _mm512_extractf64x4_pd::<1>(b));
            let d = _mm_add_pd(_mm256_castpd256_pd128(c), _mm256_extractf128_pd::<1>(c));
            _mm_cvtsd_f64(_mm_add_sd(d, _mm_unpackhi_pd(d, d)))
        };
        fn transpose4(a: [__m512i; 4]) -> [__m512i; 4] = {
            let (low01, high01) = (_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
            let (low23, high23) = (_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
            [
                _mm512_unpacklo_epi64(low01, low23),
                _mm512_unpackhi_epi64(low01, low23),
                _mm512_unpacklo_epi64(high01, high23),
                _mm512_unpackhi_epi64(high01, high23),
            ]
        };
        fn f16_to_f32(a: __m512i) -> __m512 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
        fn f32_to_f16(a: __m512) -> __m512i =
            _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a));
        fn keep_nan(bits: __m512i, rounded: __m512i) -> __m512i = {
            let a = _mm512_castsi512_ps(bits);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000))
        };
        fn swap_pairs(a: __m512) -> __m512 = _mm512_permute_ps::<0b1011_0001>(a);
        fn sum(a: __m512) -> f32 = {
            let half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let b = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps::<1>(c, c)))
        };
        fn max_lane_i(a: __m512i) -> i32 = _mm512_reduce_max_epi32(a);
        fn max_lane(a: __m512) -> f32 = {
            let half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let b = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps::<1>(c, c)))
        };
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: as for the methods above.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: as for the methods above.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, x: __m512, n: usize) {
        // SAFETY: masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(p, first(n), x) }
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u16) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u16_partial(self, p: *const u16, n: usize) -> __m512i {
        // SAFETY: masked lanes are not read.
        unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16, x: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(x)) }
    }
    #[inline(always)]
    unsafe fn store_u16_partial(self, p: *mut u16, x: __m512i, n: usize) {
        // SAFETY: masked lanes are not written.
        unsafe { _mm256_mask_storeu_epi16(p.cast(), first(n), _mm512_cvtepi32_epi16(x)) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(x)) }
    }

    #[inline(always)]
    unsafe fn interleave_u16(self, low: *const u16, high: *const u16) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = (_mm512_loadu_si512(low.cast()), _mm512_loadu_si512(high.cast()));
            // Element i of `low` is word 2 i, that of `high` word 2 i + 1; bit 5 of an index chooses `high`.
            let first =
                _mm512_add_epi32(_mm512_mullo_epi32(self.iota(), self.splat_i(0x0001_0001)), self.splat_i(32 << 16));
            let second = _mm512_add_epi32(first, self.splat_i(0x0010_0010));
            [_mm512_permutex2var_epi16(low, first, high), _mm512_permutex2var_epi16(low, second, high)]
                .map(|words| _mm512_castsi512_ps(words))
        }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u16) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_words_partial(self, p: *const u16, n: usize) -> __m512i {
        // SAFETY: masked elements are not read.
        unsafe { _mm512_maskz_loadu_epi16(first_words(n), p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(self, p: *mut u16, x: __m512i) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn store_words_partial(self, p: *mut u16, x: __m512i, n: usize) {
        // SAFETY: masked elements are not written.
        unsafe { _mm512_mask_storeu_epi16(p.cast(), first_words(n), x) }
    }

    #[inline(always)]
    fn words_of_pair(self, x: [__m512; 2]) -> __m512i {
        // SAFETY: as for the methods above.
        unsafe {
            let mut rounded = [_mm512_castps_si512(x[0]), _mm512_castps_si512(x[1])];
            for bits in &mut rounded {
                let odd = _mm512_test_epi32_mask(*bits, _mm512_set1_epi32(0x1_0000));
                let down = _mm512_add_epi32(*bits, _mm512_set1_epi32(0x7fff));
                *bits = _mm512_mask_add_epi32(down, odd, *bits, _mm512_set1_epi32(0x8000));
            }
            _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(rounded[0]), rounded[1])
        }
    }
    #[inline(always)]
    fn normal_words_of_pair(self, x: [__m512; 2]) -> __m512i {
        if !DOT_BF16 {
            return self.words_of_pair(x);
        }
        // SAFETY: as for dot_bf16.
        unsafe {
            // Elements 0 to 15 from x[0], then 16 to 31 from x[1]: put in turn.
            const IN_TURN: [u16; 32] = in_turn();
            let narrow = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(x[1], x[0]));
            _mm512_permutexvar_epi16(_mm512_loadu_si512(IN_TURN.as_ptr().cast()), narrow)
        }
    }

    #[inline(always)]
    fn dot_bf16(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if !DOT_BF16 {
            return widening_dot_bf16(self, a, b, c);
        }
        // SAFETY: with `DOT_BF16` this is only used inside code that Level::dispatch_bf16 compiled for a CPU that has
        // AVX512-BF16; __m512bh is 32 bf16 in the same 512 bits.
        unsafe {
            _mm512_dpbf16_ps(c, std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b))
        }
    }

    #[inline(always)]
    fn pair_bf16(self, low: __m512, high: __m512) -> __m512 {
        if !DOT_BF16 {
            return self.of_bits(self.or(self.f32_to_bf16(low), self.shl::<16>(self.f32_to_bf16(high))));
        }
        // SAFETY: as for dot_bf16.
        unsafe {
            let low = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(low));
            let high = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(high));
            let words =
                _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)));
            _mm512_castsi512_ps(words)
        }
    }

    #[inline(always)]
    unsafe fn store_dot_bf16(self, p: *mut u16, x: __m512) {
        if !DOT_BF16 {
            // SAFETY: the caller's promise.
            return unsafe { self.store_u16(p, self.f32_to_bf16(x)) };
        }
        // SAFETY: the caller's promise, and as for dot_bf16.
        unsafe {
            let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
            _mm256_storeu_si256(p.cast(), narrow);
        }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [__m512; MOST_LANES]) {
        // SAFETY: as for the methods above.
        unsafe {
            // groups[g][c], 128-bit lane l: rows 4g to 4g + 3 of column 4l + c.
            let mut groups = [[_mm512_setzero_ps(); 4]; 4];
            for (g, columns) in groups.iter_mut().enumerate() {
                let (r0, r1, r2, r3) = (rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]);
                let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1));
                let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));
                let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
                let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
                *columns = [
                    _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)),
                    _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)),
                    _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)),
                ];
            }
            for c in 0..4 {
                let (u0, u1, u2, u3) = (groups[0][c], groups[1][c], groups[2][c], groups[3][c]);
                let (even01, even23) = (_mm512_shuffle_f32x4::<0x88>(u0, u1), _mm512_shuffle_f32x4::<0x88>(u2, u3));
                let (odd01, odd23) = (_mm512_shuffle_f32x4::<0xdd>(u0, u1), _mm512_shuffle_f32x4::<0xdd>(u2, u3));
                rows[c] = _mm512_shuffle_f32x4::<0x88>(even01, even23);
                rows[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd01, odd23);
                rows[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even01, even23);
                rows[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd01, odd23);
            }
        }
    }
}
