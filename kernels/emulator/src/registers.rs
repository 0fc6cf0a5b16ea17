//! The registers of a warp: one row of 32 lanes for each register, and one bit mask for each predicate.

use half::{bf16, f16};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// A row of 32-bit lanes; a 64-bit register takes two rows that follow each other.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub(crate) struct Row(pub(crate) [u32; LANES]);

/// The registers of one warp.
#[derive(Clone, Default)]
pub(crate) struct Registers {
    rows: Vec<Row>,
    pub(crate) predicates: Vec<u32>,
}

/// A type that a register can be read and written as.
pub(crate) trait Lane: Copy {
    /// Whether it takes 64 bits.
    const WIDE: bool;
    fn from_bits64(bits: u64) -> Self;
    fn to_bits64(self) -> u64;
}

macro_rules! lane {
    ($($type:ty, $wide:expr, |$from:ident| $read:expr, |$to:ident| $write:expr;)*) => {
        $(impl Lane for $type {
            const WIDE: bool = $wide;
            #[inline(always)]
            fn from_bits64($from: u64) -> Self { $read }
            #[inline(always)]
            fn to_bits64(self) -> u64 { let $to = self; $write }
        })*
    };
}

lane! {
    u8, false, |b| b as u8, |v| u64::from(v);
    i8, false, |b| b as i8, |v| u64::from(v as u8);
    u16, false, |b| b as u16, |v| u64::from(v);
    i16, false, |b| b as i16, |v| u64::from(v as u16);
    u32, false, |b| b as u32, |v| u64::from(v);
    i32, false, |b| b as i32, |v| u64::from(v as u32);
    f32, false, |b| f32::from_bits(b as u32), |v| u64::from(v.to_bits());
    f16, false, |b| f16::from_bits(b as u16), |v| u64::from(v.to_bits());
    bf16, false, |b| bf16::from_bits(b as u16), |v| u64::from(v.to_bits());
    u64, true, |b| b, |v| v;
    i64, true, |b| b as i64, |v| v as u64;
    f64, true, |b| f64::from_bits(b), |v| v.to_bits();
}

impl Registers {
    /// Registers that all hold zero.
    pub(crate) fn new(rows: usize, predicates: usize) -> Registers {
        Registers { rows: vec![Row([0; LANES]); rows], predicates: vec![0; predicates] }
    }

    /// A 32-bit row.
    #[inline(always)]
    pub(crate) fn row(&self, slot: u32) -> &[u32; LANES] {
        &self.rows[slot as usize].0
    }

    #[inline(always)]
    pub(crate) fn row_mut(&mut self, slot: u32) -> &mut [u32; LANES] {
        &mut self.rows[slot as usize].0
    }

    /// A 64-bit register.
    #[inline(always)]
    pub(crate) fn wide(&self, slot: u32) -> &[u64; LANES] {
        let rows: &[Row] = &self.rows[slot as usize..slot as usize + 2];
        // SAFETY: two rows are 256 bytes without padding, aligned to 128, and any bits are a u64.
        unsafe { &*rows.as_ptr().cast::<[u64; LANES]>() }
    }

    #[inline(always)]
    pub(crate) fn wide_mut(&mut self, slot: u32) -> &mut [u64; LANES] {
        let rows: &mut [Row] = &mut self.rows[slot as usize..slot as usize + 2];
        // SAFETY: two rows are 256 bytes without padding, aligned to 128, and any bits are a u64.
        unsafe { &mut *rows.as_mut_ptr().cast::<[u64; LANES]>() }
    }

    /// All lanes of a register.
    #[inline(always)]
    pub(crate) fn read<T: Lane>(&self, slot: u32) -> [T; LANES] {
        if T::WIDE {
            let wide = self.wide(slot);
            std::array::from_fn(|lane| T::from_bits64(wide[lane]))
        } else {
            let row = self.row(slot);
            std::array::from_fn(|lane| T::from_bits64(u64::from(row[lane])))
        }
    }

    /// Writes the lanes of a mask.
    #[inline(always)]
    pub(crate) fn write<T: Lane>(&mut self, slot: u32, mask: u32, values: &[T; LANES]) {
        if T::WIDE {
            let wide = self.wide_mut(slot);
            if mask == FULL {
                for lane in 0..LANES {
                    wide[lane] = values[lane].to_bits64();
                }
            } else {
                for lane in 0..LANES {
                    wide[lane] = if mask >> lane & 1 == 1 { values[lane].to_bits64() } else { wide[lane] };
                }
            }
        } else {
            let row = self.row_mut(slot);
            if mask == FULL {
                for lane in 0..LANES {
                    row[lane] = values[lane].to_bits64() as u32;
                }
            } else {
                for lane in 0..LANES {
                    row[lane] = if mask >> lane & 1 == 1 { values[lane].to_bits64() as u32 } else { row[lane] };
                }
            }
        }
    }

    /// Fills a register with one value in all lanes.
    pub(crate) fn broadcast(&mut self, slot: u32, wide: bool, value: u64) {
        if wide {
            self.wide_mut(slot).fill(value);
        } else {
            self.row_mut(slot).fill(value as u32);
        }
    }
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        Some(lane)
    })
}
