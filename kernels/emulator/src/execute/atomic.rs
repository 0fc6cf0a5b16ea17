//! Atomic operations: real ones on global memory, as blocks may run on several host threads.

use super::address::*;
use super::block::Block;
use super::warp::Warp;
use crate::decode::opcode::Type;
use crate::fault::{Done, FaultKind};
use crate::float;
use crate::program::{Instruction, NONE};
use crate::registers::lanes;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};

/// What an atomic operation does to the old value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Add,
    Min,
    Max,
    Swap,
    Exchange,
    And,
    Or,
    Xor,
    Increment,
    Decrement,
}

const KINDS: [Kind; 10] = [
    Kind::Add,
    Kind::Min,
    Kind::Max,
    Kind::Swap,
    Kind::Exchange,
    Kind::And,
    Kind::Or,
    Kind::Xor,
    Kind::Increment,
    Kind::Decrement,
];

/// How the bits are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Meaning {
    Unsigned,
    Signed,
    F32,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

const MEANINGS: [Meaning; 8] = [
    Meaning::Unsigned,
    Meaning::Signed,
    Meaning::F32,
    Meaning::F64,
    Meaning::F16,
    Meaning::Bf16,
    Meaning::F16x2,
    Meaning::Bf16x2,
];

/// An atomic operation on a type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    kind: Kind,
    meaning: Meaning,
    bytes: u8,
}

impl Operation {
    /// The operation that an opcode names, if it exists on the type.
    pub(crate) fn new(name: &str, of: Type) -> Option<Operation> {
        let kind = match name {
            "add" => Kind::Add,
            "min" => Kind::Min,
            "max" => Kind::Max,
            "cas" => Kind::Swap,
            "exch" => Kind::Exchange,
            "and" => Kind::And,
            "or" => Kind::Or,
            "xor" => Kind::Xor,
            "inc" => Kind::Increment,
            "dec" => Kind::Decrement,
            _ => return None,
        };
        let meaning = match of {
            Type::S32 | Type::S64 => Meaning::Signed,
            Type::F32 => Meaning::F32,
            Type::F64 => Meaning::F64,
            Type::F16 => Meaning::F16,
            Type::Bf16 => Meaning::Bf16,
            Type::F16x2 => Meaning::F16x2,
            Type::Bf16x2 => Meaning::Bf16x2,
            Type::B16 | Type::B32 | Type::U32 | Type::B64 | Type::U64 => Meaning::Unsigned,
            _ => return None,
        };
        let whole = matches!(meaning, Meaning::Unsigned | Meaning::Signed);
        let possible = match kind {
            Kind::Add | Kind::Exchange => true,
            Kind::Increment | Kind::Decrement => of == Type::U32,
            _ => whole,
        };
        (possible && of.bytes() >= 2).then_some(Operation { kind, meaning, bytes: of.bytes() as u8 })
    }

    pub(crate) fn pack(self) -> u32 {
        self.kind as u32 | (self.meaning as u32) << 8 | u32::from(self.bytes) << 16
    }

    fn unpack(bits: u32) -> Operation {
        Operation {
            kind: KINDS[(bits & 15) as usize],
            meaning: MEANINGS[(bits >> 8 & 7) as usize],
            bytes: (bits >> 16) as u8,
        }
    }

    /// The new value.
    fn apply(self, old: u64, operand: u64, other: u64) -> u64 {
        let signed = |value: u64| if self.bytes == 4 { i64::from(value as i32) } else { value as i64 };
        let less = match self.meaning {
            Meaning::Signed => signed(old) < signed(operand),
            _ => old < operand,
        };
        match self.kind {
            Kind::Add => self.sum(old, operand),
            Kind::Min => {
                if less {
                    old
                } else {
                    operand
                }
            }
            Kind::Max => {
                if less {
                    operand
                } else {
                    old
                }
            }
            Kind::Swap => {
                if old == operand {
                    other
                } else {
                    old
                }
            }
            Kind::Exchange => operand,
            Kind::And => old & operand,
            Kind::Or => old | operand,
            Kind::Xor => old ^ operand,
            Kind::Increment => {
                if old >= operand {
                    0
                } else {
                    old + 1
                }
            }
            Kind::Decrement => {
                if old == 0 || old > operand {
                    operand
                } else {
                    old - 1
                }
            }
        }
    }

    fn sum(self, a: u64, b: u64) -> u64 {
        let f16 = |a: u64, b: u64| {
            let value = |bits: u64| half::f16::from_bits(bits as u16).to_f32();
            u64::from(float::f16_nearest(value(a) + value(b)).to_bits())
        };
        let bf16 = |a: u64, b: u64| {
            let value = |bits: u64| f64::from(half::bf16::from_bits(bits as u16).to_f32());
            u64::from(float::narrow(float::add_odd(value(a), value(b)), float::BF16, float::Rounding::Nearest))
        };
        let low = |value: u64| value & 0xffff;
        let high = |value: u64| value >> 16 & 0xffff;
        match self.meaning {
            Meaning::Unsigned | Meaning::Signed => a.wrapping_add(b),
            Meaning::F32 => u64::from(float::canonical(f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits()),
            Meaning::F64 => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
            Meaning::F16 => f16(a, b),
            Meaning::Bf16 => bf16(a, b),
            Meaning::F16x2 => f16(low(a), low(b)) | f16(high(a), high(b)) << 16,
            Meaning::Bf16x2 => bf16(low(a), low(b)) | bf16(high(a), high(b)) << 16,
        }
    }
}

/// `atom` and `red`: the operation in `list[2]`, its operands in the rows `list[0]` and `list[1]`. Lanes in order.
pub(crate) fn run(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    in_each_region(block, warp, instruction, mask, run_in)
}

fn run_in(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, on: &Lanes) -> Done {
    let Lanes { mask, ref at, access: Access { region, .. } } = *on;
    let operation = Operation::unpack(instruction.list[2]);
    let bytes = operation.bytes as usize;
    let wide = bytes == 8;
    let low = if wide { u64::MAX } else { (1 << (8 * bytes)) - 1 };
    match region {
        Region::Global => global(block, warp, mask, at, bytes, Use::Both)?,
        Region::Shared => {
            aligned(block, warp, mask, at, bytes)?;
            warp.order.advance();
        }
        _ => {
            let lane = mask.trailing_zeros() as usize;
            let message = "an atomic operation on local memory or on parameters".to_string();
            return Err(block.fault(warp, lane, FaultKind::OutOfBounds, Some(at[lane]), message));
        }
    }
    for lane in lanes(mask) {
        let value = |slot: u32| {
            let bits = if wide { warp.registers.wide(slot)[lane] } else { u64::from(warp.registers.row(slot)[lane]) };
            bits & low
        };
        let (operand, other) = (value(instruction.list[0]), value(instruction.list[1]));
        let old = if region == Region::Global {
            // SAFETY: `global` has checked the range and its alignment.
            unsafe { update(at[lane], operation, operand, other) }
        } else {
            let access = LaneAccess { lane, address: at[lane], bytes, how: Use::Both };
            let start = start(block, warp, access, region, true)?;
            let place = &mut block.shared.bytes[start..start + bytes];
            let mut all = [0; 8];
            all[..bytes].copy_from_slice(place);
            let old = u64::from_le_bytes(all);
            place.copy_from_slice(&operation.apply(old, operand, other).to_le_bytes()[..bytes]);
            old
        };
        if instruction.d != NONE {
            if wide {
                warp.registers.wide_mut(instruction.d)[lane] = old;
            } else {
                warp.registers.row_mut(instruction.d)[lane] = old as u32;
            }
        }
    }
    Ok(())
}

/// Updates global memory; the old value.
///
/// # Safety
///
/// The address is aligned, and the range is in a live allocation.
unsafe fn update(address: u64, operation: Operation, operand: u64, other: u64) -> u64 {
    // SAFETY: as the caller says.
    unsafe {
        match operation.bytes {
            2 => {
                let place = AtomicU16::from_ptr(address as *mut u16);
                let next = |old| Some(operation.apply(u64::from(old), operand, other) as u16);
                u64::from(place.fetch_update(SeqCst, SeqCst, next).unwrap_or_else(|old| old))
            }
            4 => {
                let place = AtomicU32::from_ptr(address as *mut u32);
                let next = |old| Some(operation.apply(u64::from(old), operand, other) as u32);
                u64::from(place.fetch_update(SeqCst, SeqCst, next).unwrap_or_else(|old| old))
            }
            _ => {
                let place = AtomicU64::from_ptr(address as *mut u64);
                place
                    .fetch_update(SeqCst, SeqCst, |old| Some(operation.apply(old, operand, other)))
                    .unwrap_or_else(|o| o)
            }
        }
    }
}
