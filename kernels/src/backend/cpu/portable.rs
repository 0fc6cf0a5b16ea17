//! The level that every CPU has: arrays of eight lanes that the compiler may vectorise.

use super::simd::{MOST_LANES, Simd};
use crate::dtype::f16;
use std::array::from_fn;

/// Eight lanes in plain Rust.
#[derive(Clone, Copy)]
pub struct Portable;

const N: usize = 8;

macro_rules! lanes {
    ($($(#[$m:meta])* fn $name:ident($($arg:ident: $t:ty),*) -> $r:ty = |$i:ident| $e:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $t),*) -> $r {
            from_fn(|$i| $e)
        })*
    };
}

impl Simd for Portable {
    const LANES: usize = N;
    const REGISTERS: usize = 8;
    type F = [f32; N];
    type I = [i32; N];
    type M = [bool; N];
    type D = [f64; N];
    type Table16 = [f32; 16];
    type Table32 = [f32; 32];

    #[inline(always)]
    fn table16(self, entries: &[f32; 16]) -> [f32; 16] {
        *entries
    }
    #[inline(always)]
    fn table32(self, entries: &[f32; 32]) -> [f32; 32] {
        *entries
    }

    lanes! {
        fn splat(x: f32) -> [f32; N] = |_i| x;
        fn splat_i(x: i32) -> [i32; N] = |_i| x;
        fn iota() -> [i32; N] = |i| i as i32;
        fn add(a: [f32; N], b: [f32; N]) -> [f32; N] = |i| a[i] + b[i];
        fn sub(a: [f32; N], b: [f32; N]) -> [f32; N] = |i| a[i] - b[i];
        fn mul(a: [f32; N], b: [f32; N]) -> [f32; N] = |i| a[i] * b[i];
        fn div(a: [f32; N], b: [f32; N]) -> [f32; N] = |i| a[i] / b[i];
        fn sqrt(a: [f32; N]) -> [f32; N] = |i| a[i].sqrt();
        fn fma(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] = |i| a[i].mul_add(b[i], c[i]);
        fn fast_fma(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] = |i| a[i] * b[i] + c[i];
        fn max(a: [f32; N], b: [f32; N]) -> [f32; N] = |i| if a[i] > b[i] { a[i] } else { b[i] };
        fn min(a: [f32; N], b: [f32; N]) -> [f32; N] = |i| if a[i] < b[i] { a[i] } else { b[i] };
        fn round(a: [f32; N]) -> [f32; N] = |i| a[i].round_ties_even();
        fn bits(a: [f32; N]) -> [i32; N] = |i| a[i].to_bits() as i32;
        fn of_bits(a: [i32; N]) -> [f32; N] = |i| f32::from_bits(a[i] as u32);
        fn to_i(a: [f32; N]) -> [i32; N] = |i| a[i] as i32;
        fn to_f(a: [i32; N]) -> [f32; N] = |i| a[i] as f32;
        fn add_i(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i].wrapping_add(b[i]);
        fn sub_i(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i].wrapping_sub(b[i]);
        fn max_i(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i].max(b[i]);
        fn lookup16(table: [f32; 16], index: [i32; N]) -> [f32; N] = |i| table[index[i] as usize % 16];
        fn lookup32(table: [f32; 32], index: [i32; N]) -> [f32; N] = |i| table[index[i] as usize % 32];
        fn mul_lo(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i].wrapping_mul(b[i]);
        fn mul_hi_u(a: [i32; N], b: [i32; N]) -> [i32; N] =
            |i| ((u64::from(a[i] as u32) * u64::from(b[i] as u32)) >> 32) as i32;
        fn and(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i] & b[i];
        fn or(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i] | b[i];
        fn xor(a: [i32; N], b: [i32; N]) -> [i32; N] = |i| a[i] ^ b[i];
        fn lt(a: [f32; N], b: [f32; N]) -> [bool; N] = |i| a[i] < b[i];
        fn le(a: [f32; N], b: [f32; N]) -> [bool; N] = |i| a[i] <= b[i];
        fn gt_i(a: [i32; N], b: [i32; N]) -> [bool; N] = |i| a[i] > b[i];
        fn eq_i(a: [i32; N], b: [i32; N]) -> [bool; N] = |i| a[i] == b[i];
        fn select(m: [bool; N], a: [f32; N], b: [f32; N]) -> [f32; N] = |i| if m[i] { a[i] } else { b[i] };
        fn select_i(m: [bool; N], a: [i32; N], b: [i32; N]) -> [i32; N] = |i| if m[i] { a[i] } else { b[i] };
        fn zero_d() -> [f64; N] = |_i| 0.0;
        fn add_widened(a: [f64; N], x: [f32; N]) -> [f64; N] = |i| a[i] + f64::from(x[i]);
        fn add_squared(a: [f64; N], x: [f32; N]) -> [f64; N] = |i| a[i] + f64::from(x[i]) * f64::from(x[i]);
        fn transpose4(a: [[i32; N]; 4]) -> [[i32; N]; 4] = |row| from_fn(|i| a[i % 4][i / 4 * 4 + row]);
        fn swap_pairs(a: [f32; N]) -> [f32; N] = |i| a[i ^ 1];
        fn f16_to_f32(a: [i32; N]) -> [f32; N] = |i| f16::from_bits(a[i] as u16).to_f32();
        fn f32_to_f16(a: [f32; N]) -> [i32; N] = |i| i32::from(f16::from_f32(a[i]).to_bits());
    }

    #[inline(always)]
    fn shl<const S: u32>(self, a: [i32; N]) -> [i32; N] {
        from_fn(|i| a[i] << S)
    }
    #[inline(always)]
    fn shr<const S: u32>(self, a: [i32; N]) -> [i32; N] {
        from_fn(|i| ((a[i] as u32) >> S) as i32)
    }
    #[inline(always)]
    fn mask_bits(self, m: [bool; N]) -> u32 {
        (0..N).fold(0, |bits, i| bits | (u32::from(m[i]) << i))
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; N] {
        // SAFETY: the caller's promise; f32 arrays have the alignment of f32.
        unsafe { p.cast::<[f32; N]>().read() }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> [f32; N] {
        // SAFETY: only the first n elements are read.
        from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: [f32; N]) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; N]>().write(x) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, x: [f32; N], n: usize) {
        // SAFETY: only the first n elements are written.
        (0..n).for_each(|i| unsafe { p.add(i).write(x[i]) });
    }
    #[inline(always)]
    unsafe fn load_u16(self, p: *const u16) -> [i32; N] {
        // SAFETY: the caller's promise.
        let x = unsafe { p.cast::<[u16; N]>().read() };
        from_fn(|i| i32::from(x[i]))
    }
    #[inline(always)]
    unsafe fn load_u16_partial(self, p: *const u16, n: usize) -> [i32; N] {
        // SAFETY: only the first n elements are read.
        from_fn(|i| if i < n { i32::from(unsafe { p.add(i).read() }) } else { 0 })
    }
    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16, x: [i32; N]) {
        let x: [u16; N] = from_fn(|i| x[i] as u16);
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; N]>().write(x) }
    }
    #[inline(always)]
    unsafe fn store_u16_partial(self, p: *mut u16, x: [i32; N], n: usize) {
        // SAFETY: only the first n elements are written.
        (0..n).for_each(|i| unsafe { p.add(i).write(x[i] as u16) });
    }

    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [i32; N] {
        // SAFETY: the caller's promise.
        let x = unsafe { p.cast::<[u8; N]>().read() };
        from_fn(|i| i32::from(x[i]))
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: [i32; N]) {
        let x: [u8; N] = from_fn(|i| x[i] as u8);
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; N]>().write(x) }
    }

    #[inline(always)]
    unsafe fn load_words(self, p: *const u16) -> [i32; N] {
        // SAFETY: the caller's promise.
        let x = unsafe { p.cast::<[u16; 2 * N]>().read() };
        from_fn(|i| i32::from(x[2 * i]) | i32::from(x[2 * i + 1]) << 16)
    }
    #[inline(always)]
    unsafe fn store_words(self, p: *mut u16, x: [i32; N]) {
        let x: [u16; 2 * N] = from_fn(|i| (x[i / 2] >> (i % 2 * 16)) as u16);
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u16; 2 * N]>().write(x) }
    }

    #[inline(always)]
    fn sum_sixteen(self, a: [[f64; N]; 2]) -> f64 {
        let b: [f64; 8] = from_fn(|i| a[0][i] + a[1][i]);
        let c: [f64; 4] = from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }
    #[inline(always)]
    fn sum(self, a: [f32; N]) -> f32 {
        let b: [f32; 4] = from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }
    #[inline(always)]
    fn max_lane_i(self, a: [i32; N]) -> i32 {
        a.into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    fn max_lane(self, a: [f32; N]) -> f32 {
        a.into_iter().reduce(|x, y| if x > y { x } else { y }).unwrap_or(f32::NEG_INFINITY)
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [[f32; N]; MOST_LANES]) {
        let columns: [[f32; N]; N] = from_fn(|column| from_fn(|row| rows[row][column]));
        rows[..N].copy_from_slice(&columns);
    }
}
