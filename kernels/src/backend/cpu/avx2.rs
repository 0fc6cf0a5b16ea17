//! AVX2 with FMA and F16C: eight lanes.
#![cfg(target_arch = "x86_64")]

use super::simd::{MOST_LANES, Simd};
use std::arch::x86_64::*;

/// Eight lanes of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

macro_rules! lanes {
    ($(fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty = $e:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            // SAFETY: `Avx2` is only used inside code that Level::dispatch compiled for a CPU that has AVX2.
            #[allow(unused_unsafe)]
            unsafe {
                $e
            }
        })*
    };
}

/// Lanes below `n` all ones, the others zero.
#[inline(always)]
fn first(n: usize) -> __m256i {
    const MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: n < 8, so eight integers from 8 - n lie inside the table.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast()) }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type F = __m256;
    type I = __m256i;
    type M = __m256;
    type D = (__m256d, __m256d);
    type Table16 = [__m256; 2];
    type Table32 = [f32; 32];

    lanes! {
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn splat_i(x: i32) -> __m256i = _mm256_set1_epi32(x);
        fn iota() -> __m256i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn fast_fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        fn of_bits(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        fn to_i(a: __m256) -> __m256i = _mm256_cvtps_epi32(a);
        fn nearest_i(a: __m256) -> __m256i = _mm256_cvtps_epi32(a);
        fn to_f(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        fn add_i(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        fn sub_i(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        fn max_i(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epi32(a, b);
        fn table16(entries: &[f32; 16]) -> [__m256; 2] =
            [_mm256_loadu_ps(entries.as_ptr()), _mm256_loadu_ps(entries.as_ptr().add(8))];
        fn table32(entries: &[f32; 32]) -> [f32; 32] = *entries;
        fn lookup16(table: [__m256; 2], index: __m256i) -> __m256 = {
            let (low, high) = (_mm256_permutevar8x32_ps(table[0], index), _mm256_permutevar8x32_ps(table[1], index));
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
        };
        fn lookup32(table: [f32; 32], index: __m256i) -> __m256 =
            _mm256_i32gather_ps::<4>(table.as_ptr(), _mm256_and_si256(index, _mm256_set1_epi32(31)));
        fn mul_lo(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        fn mul_hi_u(a: __m256i, b: __m256i) -> __m256i = {
            let even = _mm256_mul_epu32(a, b);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd)
        };
        fn and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        fn xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        fn lt(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        fn le(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LE_OQ>(a, b);
        fn gt_i(a: __m256i, b: __m256i) -> __m256 = _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b));
        fn eq_i(a: __m256i, b: __m256i) -> __m256 = _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b));
        fn select(m: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, m);
        fn select_i(m: __m256, a: __m256i, b: __m256i) -> __m256i =
            _mm256_blendv_epi8(b, a, _mm256_castps_si256(m));
        fn mask_bits(m: __m256) -> u32 = _mm256_movemask_ps(m) as u32;
        fn zero_d() -> (__m256d, __m256d) = (_mm256_setzero_pd(), _mm256_setzero_pd());
        fn add_widened(a: (__m256d, __m256d), x: __m256) -> (__m256d, __m256d) = {
            let (low, high) = widen(x);
            (_mm256_add_pd(a.0, low), _mm256_add_pd(a.1, high))
        };
        fn add_squared(a: (__m256d, __m256d), x: __m256) -> (__m256d, __m256d) = {
            let (low, high) = widen(x);
            (_mm256_fmadd_pd(low, low, a.0), _mm256_fmadd_pd(high, high, a.1))
        };
        fn sum_sixteen(a: [(__m256d, __m256d); 2]) -> f64 = {
            let (low, high) = (_mm256_add_pd(a[0].0, a[1].0), _mm256_add_pd(a[0].1, a[1].1));
            let c = _mm256_add_pd(low, high);
            let d = _mm_add_pd(_mm256_castpd256_pd128(c), _mm256_extractf128_pd::<1>(c));
            _mm_cvtsd_f64(_mm_add_sd(d, _mm_unpackhi_pd(d, d)))
        };
        fn transpose4(a: [__m256i; 4]) -> [__m256i; 4] = {
            let (low01, high01) = (_mm256_unpacklo_epi32(a[0], a[1]), _mm256_unpackhi_epi32(a[0], a[1]));
            let (low23, high23) = (_mm256_unpacklo_epi32(a[2], a[3]), _mm256_unpackhi_epi32(a[2], a[3]));
            [
                _mm256_unpacklo_epi64(low01, low23),
                _mm256_unpackhi_epi64(low01, low23),
                _mm256_unpacklo_epi64(high01, high23),
                _mm256_unpackhi_epi64(high01, high23),
            ]
        };
        fn f16_to_f32(a: __m256i) -> __m256 = _mm256_cvtph_ps(narrow(a));
        fn f32_to_f16(a: __m256) -> __m256i =
            _mm256_cvtepu16_epi32(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        fn swap_pairs(a: __m256) -> __m256 = _mm256_permute_ps::<0b1011_0001>(a);
        fn sum(a: __m256) -> f32 = {
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps::<1>(c, c)))
        };
        fn max_lane_i(a: __m256i) -> i32 = {
            let b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let c = _mm_max_epi32(b, _mm_shuffle_epi32::<0b0100_1110>(b));
            _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32::<0b1011_0001>(c)))
        };
        fn max_lane(a: __m256) -> f32 = {
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps::<1>(c, c)))
        };
    }

    #[inline(always)]
    fn shl<const N: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: as for the methods above.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: as for the methods above.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: masked lanes are not read.
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, x: __m256, n: usize) {
        // SAFETY: masked lanes are not written.
        unsafe { _mm256_maskstore_ps(p, first(n), x) }
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u16) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u16_partial(self, p: *const u16, n: usize) -> __m256i {
        let mut lanes = [0u16; 8];
        // SAFETY: the caller promised n < 8 readable elements.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            self.load_u16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16, x: __m256i) {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(p.cast(), narrow(x)) }
    }
    #[inline(always)]
    unsafe fn store_u16_partial(self, p: *mut u16, x: __m256i, n: usize) {
        let mut lanes = [0u16; 8];
        // SAFETY: the caller promised n < 8 writable elements.
        unsafe {
            self.store_u16(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: __m256i) {
        // SAFETY: the caller's promise.
        unsafe {
            let words = narrow(x);
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
        }
    }

    #[inline(always)]
    unsafe fn load_words(self, p: *const u16) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(self, p: *mut u16, x: __m256i) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(p.cast(), x) }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [__m256; MOST_LANES]) {
        // SAFETY: as for the methods above.
        unsafe {
            // groups[g][c], 128-bit lane l: rows 4g to 4g + 3 of column 4l + c.
            let mut groups = [[_mm256_setzero_ps(); 4]; 2];
            for (g, columns) in groups.iter_mut().enumerate() {
                let (r0, r1, r2, r3) = (rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]);
                let low01 = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1));
                let high01 = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));
                let low23 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));
                let high23 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
                *columns = [
                    _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)),
                    _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)),
                    _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)),
                ];
            }
            for c in 0..4 {
                let (u0, u1) = (groups[0][c], groups[1][c]);
                rows[c] = _mm256_permute2f128_ps::<0x20>(u0, u1);
                rows[4 + c] = _mm256_permute2f128_ps::<0x31>(u0, u1);
            }
        }
    }
}

/// The lower and the upper four lanes as f64.
#[inline(always)]
fn widen(x: __m256) -> (__m256d, __m256d) {
    // SAFETY: as for the methods of Avx2.
    unsafe { (_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x))) }
}

/// The low 16 bits of each lane.
#[inline(always)]
fn narrow(x: __m256i) -> __m128i {
    // SAFETY: as for the methods of Avx2.
    unsafe {
        let low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
        let packed = _mm256_packus_epi32(low, low);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
    }
}
