//! SIMD levels and the dispatch to one of them.

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::portable::Portable;
use super::simd::Simd;

/// A SIMD level. Each level includes those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every x86-64 (or other) CPU has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Level::Avx512`] with the bf16 dot product.
    Avx512Bf16,
}

/// A computation generic over the instruction set. `run` and everything that it calls on `simd` must be
/// `#[inline(always)]`, so that it is compiled with the instructions of the level.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs with the instruction set `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 4] = [Level::Portable, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The highest level that this CPU has.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx512 && is_x86_feature_detected!("avx512bf16") {
                return Level::Avx512Bf16;
            }
            if avx512 {
                return Level::Avx512;
            }
            if avx2 {
                return Level::Avx2;
            }
        }
        Level::Portable
    }

    /// Whether this CPU can run the level.
    pub fn is_available(self) -> bool {
        self <= Level::detect()
    }

    /// Name as written in messages and read from settings.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Runs `kernel` compiled for this level.
    ///
    /// # Safety
    /// The CPU has the level: [`Level::is_available`].
    #[inline(always)]
    pub(super) unsafe fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Avx2)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Avx512::<false>)
        }
        match self {
            Level::Portable => kernel.run(Portable),
            // SAFETY: the caller promised that the CPU has the level.
            Level::Avx2 => unsafe { avx2(kernel) },
            // SAFETY: as above.
            Level::Avx512 | Level::Avx512Bf16 => unsafe { avx512(kernel) },
        }
    }

    /// Runs `kernel` compiled for [`Level::Avx512Bf16`] with the bf16 dot product as one instruction.
    ///
    /// # Safety
    /// The CPU has [`Level::Avx512Bf16`].
    #[inline(always)]
    pub(super) unsafe fn dispatch_bf16<K: Kernel>(kernel: K) -> K::Output {
        #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Avx512::<true>)
        }
        // SAFETY: the caller promised that the CPU has the level.
        unsafe { avx512(kernel) }
    }
}
