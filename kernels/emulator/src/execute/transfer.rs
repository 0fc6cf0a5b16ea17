//! Loads and stores.

use super::address::*;
use super::block::Block;
use super::warp::Warp;
use crate::fault::Done;
use crate::program::{Instruction, NONE};
use crate::registers::{LANES, Registers, lanes};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// One scalar from global memory.
///
/// # Safety
///
/// `address` is a multiple of `bytes` (1, 2, 4 or 8), and the range is in a live allocation.
#[inline(always)]
pub(crate) unsafe fn peek(address: u64, bytes: u8) -> u64 {
    // SAFETY: the caller has checked bounds and alignment. Relaxed atomics, as other blocks may write at the same time.
    unsafe {
        match bytes {
            1 => u64::from(AtomicU8::from_ptr(address as *mut u8).load(Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(address as *mut u16).load(Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(address as *mut u32).load(Relaxed)),
            _ => AtomicU64::from_ptr(address as *mut u64).load(Relaxed),
        }
    }
}

/// Writes one scalar to global memory.
///
/// # Safety
///
/// As for [`peek`].
#[inline(always)]
pub(crate) unsafe fn poke(address: u64, bytes: u8, value: u64) {
    // SAFETY: the caller has checked bounds and alignment. Relaxed atomics, as other blocks may access at the same time.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(address as *mut u8).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(address as *mut u16).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(address as *mut u32).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(address as *mut u64).store(value, Relaxed),
        }
    }
}

/// A register operand of a load or store: a row, and whether it is 64 bits wide.
pub(crate) fn pack_register(slot: u32, wide: bool) -> u32 {
    slot << 1 | u32::from(wide)
}

#[inline(always)]
fn deliver(registers: &mut Registers, register: u32, lane: usize, value: u64) {
    if register == NONE {
        return;
    }
    if register & 1 == 1 {
        registers.wide_mut(register >> 1)[lane] = value;
    } else {
        registers.row_mut(register >> 1)[lane] = value as u32;
    }
}

#[inline(always)]
fn collect(registers: &Registers, register: u32, lane: usize) -> u64 {
    if register & 1 == 1 { registers.wide(register >> 1)[lane] } else { u64::from(registers.row(register >> 1)[lane]) }
}

#[inline(always)]
fn extend(value: u64, access: Access) -> u64 {
    if !access.signed {
        return value;
    }
    let unused = 64 - 8 * u32::from(access.bytes);
    (((value << unused) as i64) >> unused) as u64
}

#[inline(always)]
fn scalar(from: &[u8], bytes: usize) -> u64 {
    match *from {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => {
            let mut all = [0; 8];
            all[..bytes].copy_from_slice(&from[..bytes]);
            u64::from_le_bytes(all)
        }
    }
}

#[inline(always)]
fn word(from: &[u8], start: usize) -> u32 {
    match from[start..].first_chunk() {
        Some(bytes) => u32::from_le_bytes(*bytes),
        None => 0,
    }
}

/// `ld`: into the registers of `list`.
pub(crate) fn load(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    in_each_region(block, warp, instruction, mask, load_from)
}

fn load_from(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, from: &Lanes) -> Done {
    let Lanes { mask, ref at, access } = *from;
    let bytes = access.bytes as usize;
    if access.region == Region::Global {
        global(block, warp, mask, at, access.total(), Use::Read)?;
        for (index, &register) in instruction.list.iter().enumerate() {
            let offset = (index * bytes) as u64;
            if register & 1 == 0 && bytes == 4 {
                let row = warp.registers.row_mut(register >> 1);
                for lane in lanes(mask) {
                    // SAFETY: `global` has checked the range and its alignment.
                    row[lane] = unsafe { peek(at[lane] + offset, 4) } as u32;
                }
                continue;
            }
            for lane in lanes(mask) {
                // SAFETY: `global` has checked the range and its alignment.
                let value = unsafe { peek(at[lane] + offset, access.bytes) };
                deliver(&mut warp.registers, register, lane, extend(value, access));
            }
        }
        return Ok(());
    }
    aligned(block, warp, mask, at, access.total())?;
    let mut starts = [0; LANES];
    for lane in lanes(mask) {
        starts[lane] = start(block, warp, from.lane(lane, Use::Read), access.region, access.strong)?;
    }
    let Warp { registers, local, .. } = warp;
    let memory = match access.region {
        Region::Shared => &block.shared.bytes[..],
        Region::Parameter => block.params,
        _ => &local[..],
    };
    for (index, &register) in instruction.list.iter().enumerate() {
        let offset = index * bytes;
        if bytes == 4 && register & 1 == 0 {
            let row = registers.row_mut(register >> 1);
            for lane in lanes(mask) {
                let start = starts[lane] + offset;
                row[lane] = word(memory, start);
            }
            continue;
        }
        for lane in lanes(mask) {
            let start = starts[lane] + offset;
            deliver(registers, register, lane, extend(scalar(&memory[start..start + bytes], bytes), access));
        }
    }
    Ok(())
}

/// `st`: from the registers of `list`.
pub(crate) fn store(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    in_each_region(block, warp, instruction, mask, store_to)
}

fn store_to(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, to: &Lanes) -> Done {
    let Lanes { mask, ref at, access } = *to;
    let (bytes, total) = (access.bytes as usize, access.total());
    if access.region == Region::Global {
        global(block, warp, mask, at, total, Use::Write)?;
        for (index, &register) in instruction.list.iter().enumerate() {
            let offset = (index * bytes) as u64;
            for lane in lanes(mask) {
                let value = collect(&warp.registers, register, lane);
                // SAFETY: `global` has checked the range and its alignment.
                unsafe { poke(at[lane] + offset, access.bytes, value) };
            }
        }
        return Ok(());
    }
    aligned(block, warp, mask, at, total)?;
    if access.region == Region::Shared {
        warp.order.advance();
    }
    for lane in lanes(mask) {
        let start = start(block, warp, to.lane(lane, Use::Write), access.region, access.strong)?;
        for (index, &register) in instruction.list.iter().enumerate() {
            let value = collect(&warp.registers, register, lane).to_le_bytes();
            let range = start + index * bytes..start + (index + 1) * bytes;
            let memory = if access.region == Region::Shared { &mut block.shared.bytes } else { &mut warp.local };
            memory[range].copy_from_slice(&value[..bytes]);
        }
    }
    Ok(())
}
