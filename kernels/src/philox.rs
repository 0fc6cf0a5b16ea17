//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy
//! as 1, 2, 3").
//!
//! The random word of an element is a pure function of (seed, step, tensor, element index), so it depends neither on
//! the launch shape, nor on the number of threads, nor on which rank holds the element, nor on when it is recomputed.
//!
//! | word of the counter | holds |
//! |---|---|
//! | 0 | bits 0 to 31 of the block |
//! | 1 | bits 32 to 61 of the block; above them bits 32 and 33 of the step |
//! | 2 | bits 0 to 31 of the step |
//! | 3 | the tensor |
//!
//! A block is four consecutive elements: block = element index / 4, and element 4 b + j takes word j of block b. Every
//! 64-bit element index and every step below 2^34 has its own counter; the seed is the 64-bit key, low word first.

use crate::backend::cpu::Simd;
use crate::view::Invalid;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// One block of Philox4x32-10.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut c = counter;
    for round in 0..ROUNDS {
        let k = round_key(key, round);
        let a = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let b = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
    }
    c
}

#[inline(always)]
fn round_key(key: [u32; 2], round: u32) -> [u32; 2] {
    [key[0].wrapping_add(WEYL[0].wrapping_mul(round)), key[1].wrapping_add(WEYL[1].wrapping_mul(round))]
}

/// What names a stream of random words; the element index selects a word of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Of the whole run.
    pub seed: u64,
    /// Of training, or any other count of uses; below [`Key::STEPS`].
    pub step: u64,
    /// Which tensor, or any other user of random numbers within the step.
    pub tensor: u32,
}

impl Key {
    /// Steps that have their own counters.
    pub const STEPS: u64 = 1 << 34;

    /// Requires a step below [`Key::STEPS`], and that elements `first`, …, `first + numel - 1` have a 64-bit index.
    pub fn check(&self, argument: &'static str, first: u64, numel: usize) -> Result<(), Invalid> {
        if self.step >= Key::STEPS {
            return Err(Invalid::new(argument, format!("step {} must be below 2^34", self.step)));
        }
        if first.checked_add(numel as u64).is_none() {
            return Err(Invalid::new(argument, format!("elements {first} + {numel} must end below 2^64")));
        }
        Ok(())
    }

    /// The 64-bit key of the cipher.
    #[inline(always)]
    pub fn words(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// The counter of block `block`.
    #[inline(always)]
    pub fn counter(&self, block: u64) -> [u32; 4] {
        [
            block as u32,
            ((block >> 32) as u32 & 0x3fff_ffff) | (((self.step >> 32) as u32) << 30),
            self.step as u32,
            self.tensor,
        ]
    }

    /// The random words of elements `4 * block`, …, `4 * block + 3`.
    pub fn block(&self, block: u64) -> [u32; 4] {
        philox4x32_10(self.counter(block), self.words())
    }

    /// The random word of element `index`.
    pub fn word(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }
}

/// The blocks of `4 * LANES` consecutive elements from `first`, a multiple of `4 * LANES`: vector j holds word j of each
/// block, one block per lane, in the order that [`in_order`] undoes.
#[inline(always)]
pub fn blocks<S: Simd>(s: S, key: Key, first: u64) -> [S::I; 4] {
    let quarter = (S::LANES / 4) as i32;
    // Lane 4 c + p computes block p * LANES / 4 + c, so that a transpose of each four lanes leaves the words in order.
    let lane = s.iota();
    let position = s.and(lane, s.splat_i(3));
    let offset = s.add_i(s.mul_lo(position, s.splat_i(quarter)), s.shr::<2>(lane));
    // The first block is a multiple of LANES: adding the offset carries into no higher word.
    let start = key.counter(first / 4);
    let mut c = [
        s.or(s.splat_i(start[0] as i32), offset),
        s.splat_i(start[1] as i32),
        s.splat_i(start[2] as i32),
        s.splat_i(start[3] as i32),
    ];
    let multiplier = [s.splat_i(MULTIPLIER[0] as i32), s.splat_i(MULTIPLIER[1] as i32)];
    for round in 0..ROUNDS {
        let k = round_key(key.words(), round);
        let (a_high, a_low) = (s.mul_hi_u(c[0], multiplier[0]), s.mul_lo(c[0], multiplier[0]));
        let (b_high, b_low) = (s.mul_hi_u(c[2], multiplier[1]), s.mul_lo(c[2], multiplier[1]));
        let (k0, k1) = (s.splat_i(k[0] as i32), s.splat_i(k[1] as i32));
        c = [s.xor(s.xor(b_high, c[1]), k0), b_low, s.xor(s.xor(a_high, c[3]), k1), a_low];
    }
    c
}

/// Puts what was computed from [`blocks`], vector j from word j, in the order of the elements.
#[inline(always)]
pub fn in_order<S: Simd>(s: S, blocks: [S::I; 4]) -> [S::I; 4] {
    s.transpose4(blocks)
}

/// The random words of `4 * LANES` consecutive elements from `first`, a multiple of `4 * LANES`, in order.
#[inline(always)]
pub fn words<S: Simd>(s: S, key: Key, first: u64) -> [S::I; 4] {
    in_order(s, blocks(s, key, first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::{Cpu, Inline, Kernel, Level};

    #[test]
    fn known_answers_of_the_authors() {
        // kat_vectors of Random123, philox4x32 with 10 rounds.
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn counters_are_distinct_to_the_limits() {
        let key = |step, tensor| Key { seed: 1, step, tensor };
        let mut seen = std::collections::HashSet::new();
        for step in [0, 1, u64::from(u32::MAX), 1 << 32, 1 << 33, Key::STEPS - 1] {
            for tensor in [0, 1, u32::MAX] {
                for block in [0, 1, u64::from(u32::MAX), 1 << 32, 1 << 61, u64::MAX / 4] {
                    assert!(seen.insert(key(step, tensor).counter(block)), "step {step} tensor {tensor} block {block}");
                }
            }
        }
    }

    #[test]
    fn a_step_or_an_index_past_the_limits_is_refused() {
        let key = Key { seed: 0, step: Key::STEPS, tensor: 0 };
        assert_eq!(key.check("key", 0, 1).unwrap_err().argument, "key");
        let key = Key { step: Key::STEPS - 1, ..key };
        assert!(key.check("key", u64::MAX - 5, 5).is_ok());
        assert!(key.check("key", u64::MAX, 5).is_err());
    }

    /// The words of consecutive elements.
    struct Words {
        key: Key,
        first: u64,
    }

    impl Kernel for Words {
        type Output = Vec<u32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<u32> {
            let mut out = vec![0u32; 4 * S::LANES];
            let words = words(s, self.key, self.first);
            for (j, vector) in words.into_iter().enumerate() {
                // SAFETY: four vectors fit.
                unsafe { s.store_i(out.as_mut_ptr().cast::<i32>().add(j * S::LANES), vector) };
            }
            out
        }
    }

    #[test]
    fn every_level_gives_the_scalar_words() {
        for level in Level::ALL.into_iter().filter(|l| l.is_available()) {
            for first in [0, 64, (1 << 34) - 64, 1 << 34, 1 << 40, u64::MAX - 63] {
                let key = Key { seed: 0x0123_4567_89ab_cdef, step: (1 << 33) + 7, tensor: 9 };
                let out = Cpu::new(level, &Inline, &mut []).dispatch(Words { key, first });
                for (i, word) in out.into_iter().enumerate() {
                    assert_eq!(word, key.word(first + i as u64), "{} first {first} + {i}", level.name());
                }
            }
        }
    }
}
