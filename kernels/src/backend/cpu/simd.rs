//! One interface to the vector instructions of every level.

/// Largest [`Simd::LANES`].
pub const MOST_LANES: usize = 16;

/// An instruction set: vectors of [`Simd::LANES`] 32-bit lanes.
///
/// Every method is lane-wise and rounds as IEEE 754 says, so a kernel that uses only these methods (and no
/// reduction across lanes) gives the same bits at every level. `fast_fma` is the exception: it may round twice.
///
/// Values of a level's vector types must stay inside code compiled for the level: [`super::Kernel::run`].
pub trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a vector: 8 or 16.
    const LANES: usize;
    /// Vectors of LANES lanes that the registers hold: how large a tile of sums a matrix product keeps in them.
    const REGISTERS: usize;
    /// Whether [`Simd::dot_bf16`] is one instruction.
    const HAS_DOT_BF16: bool = false;
    /// f32 lanes.
    type F: Copy;
    /// i32 lanes.
    type I: Copy;
    /// One boolean per lane.
    type M: Copy;
    /// f64 lanes, as many as f32 lanes.
    type D: Copy;
    /// 16 values.
    type Table16: Copy;
    /// 32 values.
    type Table32: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// All lanes `x`.
    fn splat_i(self, x: i32) -> Self::I;
    /// 0, 1, 2, … LANES - 1.
    fn iota(self) -> Self::I;

    /// Reads LANES values; no alignment beyond the element's is needed.
    ///
    /// # Safety
    /// `p` is valid for reads of LANES elements.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Reads `n < LANES` values; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F;
    /// Writes LANES values.
    ///
    /// # Safety
    /// `p` is valid for writes of LANES elements.
    unsafe fn store(self, p: *mut f32, x: Self::F);
    /// Writes the first `n < LANES` lanes.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    unsafe fn store_partial(self, p: *mut f32, x: Self::F, n: usize);
    /// Reads LANES 16-bit values, zero-extended.
    ///
    /// # Safety
    /// `p` is valid for reads of LANES elements.
    unsafe fn load_u16(self, p: *const u16) -> Self::I;
    /// Reads `n < LANES` 16-bit values, zero-extended; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    unsafe fn load_u16_partial(self, p: *const u16, n: usize) -> Self::I;
    /// Writes the low 16 bits of each lane.
    ///
    /// # Safety
    /// `p` is valid for writes of LANES elements.
    unsafe fn store_u16(self, p: *mut u16, x: Self::I);
    /// Writes the low 16 bits of the first `n < LANES` lanes.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    unsafe fn store_u16_partial(self, p: *mut u16, x: Self::I, n: usize);
    /// Words whose low half is from `low` and whose high half is from `high`, 2 LANES of them in order.
    ///
    /// # Safety
    /// Both are valid for reads of 2 LANES elements.
    #[inline(always)]
    unsafe fn interleave_u16(self, low: *const u16, high: *const u16) -> [Self::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [0, Self::LANES].map(|at| {
                self.of_bits(self.or(self.load_u16(low.add(at)), self.shl::<16>(self.load_u16(high.add(at)))))
            })
        }
    }
    /// Reads 2 LANES 16-bit values, those of even index into the lower and those of odd index into the upper half of each
    /// lane.
    ///
    /// # Safety
    /// `p` is valid for reads of 2 LANES elements.
    unsafe fn load_words(self, p: *const u16) -> Self::I;
    /// Reads `n < 2 LANES` 16-bit values as [`Simd::load_words`]; the others are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    #[inline(always)]
    unsafe fn load_words_partial(self, p: *const u16, n: usize) -> Self::I {
        let mut words = [0; 2 * MOST_LANES];
        // SAFETY: the caller promised n readable elements, which are fewer than the array has.
        unsafe {
            std::ptr::copy_nonoverlapping(p, words.as_mut_ptr(), n);
            self.load_words(words.as_ptr())
        }
    }
    /// Writes what [`Simd::load_words`] reads.
    ///
    /// # Safety
    /// `p` is valid for writes of 2 LANES elements.
    unsafe fn store_words(self, p: *mut u16, x: Self::I);
    /// Writes the first `n < 2 LANES` of what [`Simd::load_words`] reads.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    #[inline(always)]
    unsafe fn store_words_partial(self, p: *mut u16, x: Self::I, n: usize) {
        let mut words = [0; 2 * MOST_LANES];
        // SAFETY: the array holds 2 LANES elements at every level, and the caller promised n writable ones.
        unsafe {
            self.store_words(words.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(words.as_ptr(), p, n);
        }
    }
    /// Reads LANES bytes, zero-extended.
    ///
    /// # Safety
    /// `p` is valid for reads of LANES elements.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// Reads `n < LANES` bytes, zero-extended; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    #[inline(always)]
    unsafe fn load_u8_partial(self, p: *const u8, n: usize) -> Self::I {
        let mut bytes = [0; MOST_LANES];
        // SAFETY: the caller promised n readable elements, which are fewer than the array has.
        unsafe {
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n);
            self.load_u8(bytes.as_ptr())
        }
    }
    /// Writes the low 8 bits of each lane, whose value is at least 0 and below 256.
    ///
    /// # Safety
    /// `p` is valid for writes of LANES elements.
    unsafe fn store_u8(self, p: *mut u8, x: Self::I);
    /// Writes the first `n < LANES` of what [`Simd::store_u8`] writes.
    ///
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    #[inline(always)]
    unsafe fn store_u8_partial(self, p: *mut u8, x: Self::I, n: usize) {
        let mut bytes = [0; MOST_LANES];
        // SAFETY: the array holds LANES elements at every level, and the caller promised n writable ones.
        unsafe {
            self.store_u8(bytes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, n);
        }
    }
    /// Reads LANES 32-bit integers.
    ///
    /// # Safety
    /// `p` is valid for reads of LANES elements.
    unsafe fn load_i(self, p: *const i32) -> Self::I {
        // SAFETY: same size and validity.
        self.bits(unsafe { self.load(p.cast()) })
    }
    /// Writes LANES 32-bit integers.
    ///
    /// # Safety
    /// `p` is valid for writes of LANES elements.
    unsafe fn store_i(self, p: *mut i32, x: Self::I) {
        // SAFETY: same size and validity.
        unsafe { self.store(p.cast(), self.of_bits(x)) }
    }

    /// a + b.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// 1 / a within 2^-13.9 of its value, 0 for infinity. Values of 2^126 and more may give 0.
    #[inline(always)]
    fn reciprocal(self, a: Self::F) -> Self::F {
        self.div(self.splat(1.0), a)
    }
    /// The square root of a.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// a * b + c, rounded once at every level (slow at the portable level).
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a * b + c, rounded once or twice: for sums where tolerance, not bits, is the contract.
    fn fast_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a > b ? a : b (b when either is NaN).
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// a < b ? a : b (b when either is NaN).
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;

    /// The lanes' bits.
    fn bits(self, a: Self::F) -> Self::I;
    /// The floats with these bits.
    fn of_bits(self, a: Self::I) -> Self::F;
    /// Conversion to i32 of values in range, integral or rounded in a way of the level's own.
    fn to_i(self, a: Self::F) -> Self::I;
    /// Nearest integer of values in range, ties to even.
    #[inline(always)]
    fn nearest_i(self, a: Self::F) -> Self::I {
        self.to_i(self.round(a))
    }
    /// Conversion of i32 to f32, ties to even.
    fn to_f(self, a: Self::I) -> Self::F;
    /// a + b, wrapping.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// a - b, wrapping.
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger, signed.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// A table to look up in, in registers where they are as large.
    fn table16(self, entries: &[f32; 16]) -> Self::Table16;
    /// A table to look up in, in registers where they are as large.
    fn table32(self, entries: &[f32; 32]) -> Self::Table32;
    /// The entries whose indices are the low 4 bits of each lane.
    fn lookup16(self, table: Self::Table16, index: Self::I) -> Self::F;
    /// The entries whose indices are the low 5 bits of each lane.
    fn lookup32(self, table: Self::Table32, index: Self::I) -> Self::F;
    /// Low 32 bits of a * b.
    fn mul_lo(self, a: Self::I, b: Self::I) -> Self::I;
    /// High 32 bits of the unsigned product.
    fn mul_hi_u(self, a: Self::I, b: Self::I) -> Self::I;
    /// a & b.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// a | b.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// a ^ b.
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// a << N.
    fn shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// a >> N, filling with zeros.
    fn shr<const N: u32>(self, a: Self::I) -> Self::I;

    /// a < b; false when either is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// a <= b; false when either is NaN.
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    /// a > b, signed.
    fn gt_i(self, a: Self::I, b: Self::I) -> Self::M;
    /// a == b.
    fn eq_i(self, a: Self::I, b: Self::I) -> Self::M;
    /// m ? a : b.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// m ? a : b.
    fn select_i(self, m: Self::M, a: Self::I, b: Self::I) -> Self::I;
    /// One bit per lane, lane 0 lowest.
    fn mask_bits(self, m: Self::M) -> u32;

    /// All f64 lanes 0.
    fn zero_d(self) -> Self::D;
    /// a + x, with x widened to f64.
    fn add_widened(self, a: Self::D, x: Self::F) -> Self::D;
    /// a + x * x, with x widened to f64, where its square is exact.
    fn add_squared(self, a: Self::D, x: Self::F) -> Self::D;
    /// Sum of sixteen f64 lanes: those of `a[0]`, followed at levels of eight lanes by those of `a[1]`. Halves are added
    /// until one lane is left, so that every level adds in the same order.
    fn sum_sixteen(self, a: [Self::D; 2]) -> f64;
    /// In each group of four lanes, transposes the 4x4 matrix whose rows are the four vectors.
    fn transpose4(self, a: [Self::I; 4]) -> [Self::I; 4];

    /// f16 bits (low 16 of each lane) to f32.
    fn f16_to_f32(self, a: Self::I) -> Self::F;
    /// f32 to f16 bits in the low 16 of each lane, nearest even; the high 16 are 0.
    fn f32_to_f16(self, a: Self::F) -> Self::I;

    /// Lanes 2i and 2i + 1 exchanged.
    fn swap_pairs(self, a: Self::F) -> Self::F;

    /// Sum of the lanes: halves are added until one lane is left, so the order is fixed for a level.
    fn sum(self, a: Self::F) -> f32;
    /// Largest lane, signed.
    fn max_lane_i(self, a: Self::I) -> i32;
    /// Largest lane; as [`Simd::max`] when a lane is NaN.
    fn max_lane(self, a: Self::F) -> f32;

    /// Transposes the block of the first LANES rows. (Not a matter of closures: those that are not inlined are compiled
    /// without the level's instructions.)
    fn transpose(self, rows: &mut [Self::F; MOST_LANES]);

    /// c + a0 * b0 + a1 * b1 in each lane, whose 32 bits are two bf16 of `a` and of `b`.
    ///
    /// Code run by [`super::Cpu::dispatch_bf16`] uses the instruction, which takes denormal inputs and gives denormal
    /// results as zeros.
    #[inline(always)]
    fn dot_bf16(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        widening_dot_bf16(self, a, b, c)
    }

    /// a * 2^n for integral n in -252..=254; NaN where a is NaN, whatever n. Denormal results may be rounded twice.
    #[inline(always)]
    fn scale(self, a: Self::F, n: Self::F) -> Self::F {
        let half = self.round(self.mul(n, self.splat(0.5)));
        let power = |k| self.of_bits(self.shl::<23>(self.add_i(k, self.splat_i(127))));
        let (low, high) = (power(self.to_i(half)), power(self.to_i(self.sub(n, half))));
        self.mul(self.mul(a, low), high)
    }
    /// Words of two bf16 as [`Simd::dot_bf16`] reads them: `low` and `high` rounded to nearest even. Code run by
    /// [`super::Cpu::dispatch_bf16`] uses the instruction, which makes denormals zeros.
    #[inline(always)]
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::F {
        self.of_bits(self.or(self.f32_to_bf16(low), self.shl::<16>(self.f32_to_bf16(high))))
    }
    /// Writes LANES values as bf16, rounded as by [`Simd::pair_bf16`].
    ///
    /// # Safety
    /// `p` is valid for writes of LANES elements.
    #[inline(always)]
    unsafe fn store_dot_bf16(self, p: *mut u16, x: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { self.store_u16(p, self.f32_to_bf16(x)) }
    }

    /// The bf16 in the lower and in the upper half of each lane as f32.
    #[inline(always)]
    fn pair_of_words(self, a: Self::I) -> [Self::F; 2] {
        [self.bf16_to_f32(a), self.of_bits(self.and(a, self.splat_i(0xffff_0000_u32 as i32)))]
    }
    /// bf16 bits of `x[0]` in the lower and of `x[1]` in the upper half of each lane, nearest even, denormals kept. The
    /// low 16 bits of a NaN must be 0, for then rounding keeps it one.
    #[inline(always)]
    fn words_of_pair(self, x: [Self::F; 2]) -> Self::I {
        let mut rounded = [self.bits(x[0]), self.bits(x[1])];
        for bits in &mut rounded {
            let odd = self.and(self.shr::<16>(*bits), self.splat_i(1));
            *bits = self.add_i(self.add_i(*bits, self.splat_i(0x7fff)), odd);
        }
        self.high_halves(rounded)
    }
    /// The upper halves of the lanes of `x[0]` in the lower, those of `x[1]` in the upper half of each lane.
    #[inline(always)]
    fn high_halves(self, x: [Self::I; 2]) -> Self::I {
        self.or(self.shr::<16>(x[0]), self.and(x[1], self.splat_i(0xffff_0000_u32 as i32)))
    }
    /// [`Simd::words_of_pair`], but that denormals may become zeros: by the instruction in code run by
    /// [`super::Cpu::dispatch_bf16`].
    #[inline(always)]
    fn normal_words_of_pair(self, x: [Self::F; 2]) -> Self::I {
        self.words_of_pair(x)
    }

    /// -a.
    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        self.of_bits(self.xor(self.bits(a), self.splat_i(i32::MIN)))
    }
    /// |a|.
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        self.of_bits(self.and(self.bits(a), self.splat_i(i32::MAX)))
    }
    /// One bit per lane that is NaN or infinite.
    #[inline(always)]
    fn nonfinite_bits(self, a: Self::F) -> u32 {
        let exponent = self.splat_i(0x7f80_0000);
        self.mask_bits(self.eq_i(self.and(self.bits(a), exponent), exponent))
    }
    /// bf16 bits (low 16 of each lane) to f32.
    #[inline(always)]
    fn bf16_to_f32(self, a: Self::I) -> Self::F {
        self.of_bits(self.shl::<16>(a))
    }
    /// f32 to bf16 bits in the low 16 of each lane, nearest even, as [`crate::dtype::bf16_bits_nearest_even`].
    #[inline(always)]
    fn f32_to_bf16(self, a: Self::F) -> Self::I {
        self.shr::<16>(self.round_to_bf16(a))
    }
    /// [`Simd::f32_to_bf16`], in the high 16 bits of each lane; the low 16 mean nothing.
    #[inline(always)]
    fn round_to_bf16(self, a: Self::F) -> Self::I {
        let bits = self.bits(a);
        let bias = self.add_i(self.splat_i(0x7fff), self.and(self.shr::<16>(bits), self.splat_i(1)));
        self.keep_nan(bits, self.add_i(bits, bias))
    }
    /// f32 to bf16 bits, nearest with ties away from zero, as [`crate::dtype::bf16_bits_nearest_away`].
    #[inline(always)]
    fn f32_to_bf16_away(self, a: Self::F) -> Self::I {
        self.shr::<16>(self.round_to_bf16_away(a))
    }
    /// [`Simd::f32_to_bf16_away`], in the high 16 bits of each lane; the low 16 mean nothing.
    #[inline(always)]
    fn round_to_bf16_away(self, a: Self::F) -> Self::I {
        let bits = self.bits(a);
        self.keep_nan(bits, self.add_i(bits, self.splat_i(0x8000)))
    }
    /// [`Simd::f32_to_bf16_away`] of what is no NaN, or one without low bits.
    #[inline(always)]
    fn f32_to_bf16_computed(self, a: Self::F) -> Self::I {
        self.shr::<16>(self.round_to_bf16_computed(a))
    }
    /// [`Simd::f32_to_bf16_computed`], in the high 16 bits of each lane; the low 16 mean nothing.
    #[inline(always)]
    fn round_to_bf16_computed(self, a: Self::F) -> Self::I {
        self.add_i(self.bits(a), self.splat_i(0x8000))
    }
    /// `rounded`, or a quiet NaN where `bits` is NaN.
    #[inline(always)]
    fn keep_nan(self, bits: Self::I, rounded: Self::I) -> Self::I {
        let magnitude = self.and(bits, self.splat_i(i32::MAX));
        let nan = self.gt_i(magnitude, self.splat_i(0x7f80_0000));
        self.select_i(nan, self.or(bits, self.splat_i(0x0040_0000)), rounded)
    }
}

/// [`Simd::dot_bf16`] without an instruction for it.
#[inline(always)]
pub(super) fn widening_dot_bf16<S: Simd>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
    let high = s.splat_i(0xffff_0000_u32 as i32);
    let (a, b) = (s.bits(a), s.bits(b));
    let c = s.fast_fma(s.bf16_to_f32(a), s.bf16_to_f32(b), c);
    s.fast_fma(s.of_bits(s.and(a, high)), s.of_bits(s.and(b, high)), c)
}
