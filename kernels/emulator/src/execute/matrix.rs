//! Matrices across a warp: `mma.sync` and `ldmatrix`.
//!
//! Products are exact. They are added to the accumulator one at a time, by rising index of the inner dimension, each sum
//! rounded to f32 (to nearest). A device adds groups of products at once with fewer guard bits, so its low bits differ.

use super::address::{LaneAccess, Region, Use, aligned, base_addresses, generic, shared};
use super::block::Block;
use super::warp::Warp;
use crate::decode::opcode::Type;
use crate::fault::{Done, FaultKind};
use crate::float::{F16, Rounding, canonical, narrow};
use crate::program::Instruction;
use crate::registers::LANES;
use half::{bf16, f16};

/// Rows of the result.
const ROWS: usize = 16;

/// Columns of the result.
const COLUMNS: usize = 8;

/// The shape of an `mma.m16n8…` instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// The inner dimension.
    pub(crate) depth: usize,
    /// What A and B hold.
    pub(crate) element: Type,
    /// What C and D hold.
    pub(crate) accumulator: Type,
}

impl Shape {
    /// Registers of D, A, B and C.
    pub(crate) fn registers(self) -> [usize; 4] {
        let per_register = if self.element == Type::Tf32 { 1 } else { 2 };
        let accumulators = if self.accumulator == Type::F16 { 2 } else { 4 };
        let left = ROWS * self.depth / LANES / per_register;
        [accumulators, left, self.depth * COLUMNS / LANES / per_register, accumulators]
    }

    pub(crate) fn pack(self) -> i64 {
        let element = match self.element {
            Type::F16 => 0,
            Type::Bf16 => 1,
            _ => 2,
        };
        self.depth as i64 | element << 8 | i64::from(self.accumulator == Type::F16) << 16
    }

    fn unpack(bits: i64) -> Shape {
        let element = match bits >> 8 & 3 {
            0 => Type::F16,
            1 => Type::Bf16,
            _ => Type::Tf32,
        };
        let accumulator = if bits >> 16 & 1 == 1 { Type::F16 } else { Type::F32 };
        Shape { depth: (bits & 255) as usize, element, accumulator }
    }

    fn value(self, bits: u32) -> f32 {
        match self.element {
            Type::F16 => f16::from_bits(bits as u16).to_f32(),
            Type::Bf16 => bf16::from_bits(bits as u16).to_f32(),
            // The low bits of the significand are not looked at.
            _ => f32::from_bits(bits & !0x1fff),
        }
    }
}

/// `mma.sync`: `list` holds the registers of D, A, B and C.
pub(crate) fn multiply(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    whole(block, warp, mask)?;
    let shape = Shape::unpack(instruction.immediate);
    let [d, a, b, _] = shape.registers();
    let (d, rest) = instruction.list.split_at(d);
    let (a, rest) = rest.split_at(a);
    let (b, c) = rest.split_at(b);
    let mut left = [[0f32; 16]; ROWS];
    let mut right = [[0f32; COLUMNS]; 16];
    let halves = if shape.element == Type::Tf32 { 1 } else { 2 };
    for lane in 0..LANES {
        let (group, within) = (lane / 4, lane % 4);
        for (index, &slot) in a.iter().enumerate() {
            let bits = warp.registers.row(slot)[lane];
            // Registers alternate between the upper and the lower eight rows, then move along the inner dimension.
            let row = group + 8 * (index & 1);
            for half in 0..halves {
                let k = within * halves + half + (index >> 1) * 4 * halves;
                left[row][k] = shape.value(bits >> (16 * half as u32));
            }
        }
        for (index, &slot) in b.iter().enumerate() {
            let bits = warp.registers.row(slot)[lane];
            for half in 0..halves {
                let k = within * halves + half + index * 4 * halves;
                right[k][group] = shape.value(bits >> (16 * half as u32));
            }
        }
    }
    let mut sums = [[0f32; COLUMNS]; ROWS];
    each_accumulator(shape, |register, half, lane, row, column| {
        let bits = warp.registers.row(c[register])[lane];
        sums[row][column] = match shape.accumulator {
            Type::F16 => f16::from_bits((bits >> (16 * half)) as u16).to_f32(),
            _ => f32::from_bits(bits),
        };
    });
    accumulate(&mut sums, &left, &right, shape.depth);
    for &slot in d {
        warp.registers.row_mut(slot).fill(0);
    }
    each_accumulator(shape, |register, half, lane, row, column| {
        let sum = sums[row][column];
        let target = &mut warp.registers.row_mut(d[register])[lane];
        match shape.accumulator {
            Type::F16 => *target |= narrow(f64::from(sum), F16, Rounding::Nearest) << (16 * half),
            _ => *target = canonical(sum).to_bits(),
        }
    });
    warp.order.synchronise(mask, warp.live);
    Ok(())
}

type Left = [[f32; 16]; ROWS];
type Right = [[f32; COLUMNS]; 16];
type Sums = [[f32; COLUMNS]; ROWS];

/// Adds the products, with the machine's fused multiply-add where it has one.
fn accumulate(sums: &mut Sums, left: &Left, right: &Right, depth: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been asked for both features.
        return unsafe { accumulate_avx2(sums, left, right, depth) };
    }
    accumulate_fused(sums, left, right, depth);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_avx2(sums: &mut Sums, left: &Left, right: &Right, depth: usize) {
    accumulate_fused(sums, left, right, depth);
}

#[inline(always)]
fn accumulate_fused(sums: &mut Sums, left: &Left, right: &Right, depth: usize) {
    for row in 0..ROWS {
        let mut all = sums[row];
        for k in 0..depth {
            for column in 0..COLUMNS {
                all[column] = left[row][k].mul_add(right[k][column], all[column]);
            }
        }
        sums[row] = all;
    }
}

/// Calls `each` with the register, the half of it, the lane, the row and the column of each element of C.
fn each_accumulator(shape: Shape, mut each: impl FnMut(usize, u32, usize, usize, usize)) {
    for lane in 0..LANES {
        let (group, within) = (lane / 4, lane % 4);
        for element in 0..4 {
            let (row, column) = (group + 8 * (element >> 1), within * 2 + (element & 1));
            match shape.accumulator {
                Type::F16 => each(element >> 1, (element & 1) as u32, lane, row, column),
                _ => each(element, 0, lane, row, column),
            }
        }
    }
}

/// Faults unless all 32 lanes are here.
fn whole(block: &Block<'_>, warp: &Warp, mask: u32) -> Done {
    if mask == u32::MAX {
        return Ok(());
    }
    let lane = mask.trailing_zeros() as usize;
    let message = format!("the instruction needs all 32 lanes, and only {mask:#010x} are here");
    Err(block.fault(warp, lane, FaultKind::WarpDivergence, None, message))
}

/// `ldmatrix`: matrices of 8 rows of 16 bytes; lanes 8 i to 8 i + 7 hold the addresses of the rows of matrix i.
pub(crate) fn load(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    whole(block, warp, mask)?;
    let (wide, transposed) = (instruction.b & 1 == 1, instruction.b >> 1 & 1 == 1);
    let mut at = base_addresses(warp, instruction.a, wide, instruction.immediate);
    let used = u32::MAX >> (32 - 8 * instruction.list.len() as u32);
    if instruction.b >> 2 & 1 == 1 {
        for lane in crate::registers::lanes(used) {
            let (region, within) = generic(at[lane]);
            if region != Region::Shared {
                let message = "ldmatrix reads shared memory only".to_string();
                return Err(block.fault(warp, lane, FaultKind::OutOfBounds, Some(at[lane]), message));
            }
            at[lane] = within;
        }
    }
    aligned(block, warp, used, &at, 16)?;
    let mut out = [[0u32; LANES]; 4];
    for (matrix, _) in instruction.list.iter().enumerate() {
        let mut elements = [[0u16; 8]; 8];
        for (row, elements) in elements.iter_mut().enumerate() {
            let lane = 8 * matrix + row;
            let access = LaneAccess { lane, address: at[lane], bytes: 16, how: Use::Read };
            let start = shared(block, warp, access, 0, 0)?;
            for (column, element) in elements.iter_mut().enumerate() {
                let at = start + 2 * column;
                *element = u16::from_le_bytes([block.shared.bytes[at], block.shared.bytes[at + 1]]);
            }
        }
        for lane in 0..LANES {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let two = if transposed {
                [elements[column][row], elements[column + 1][row]]
            } else {
                [elements[row][column], elements[row][column + 1]]
            };
            out[matrix][lane] = u32::from(two[1]) << 16 | u32::from(two[0]);
        }
    }
    for (matrix, &slot) in instruction.list.iter().enumerate() {
        *warp.registers.row_mut(slot) = out[matrix];
    }
    warp.order.synchronise(mask, warp.live);
    Ok(())
}
