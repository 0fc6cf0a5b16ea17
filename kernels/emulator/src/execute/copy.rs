//! `cp.async`: copies from global to shared memory that become visible at the wait for them.

use super::address::{LaneAccess, Region, Use, accessor, aligned, base_addresses, generic, global, shared};
use super::block::Block;
use super::shared::PENDING;
use super::transfer::peek;
use super::warp::Warp;
use crate::fault::{Done, FaultKind};
use crate::program::{Instruction, NONE};
use crate::registers::lanes;

/// The 64-bit bases in the field `d` of a `cp.async`: the target's, and the source's.
pub(crate) const TARGET_WIDE: u32 = 1;
pub(crate) const SOURCE_WIDE: u32 = 2;

/// The target is a generic address.
pub(crate) const TARGET_GENERIC: u32 = 4;

/// `cp.async`: target `a` plus `immediate`, source `b` plus `list[0]`, `list[1]` bytes, of which row `c` says how many come
/// from the source; the rest is zero.
pub(crate) fn issue(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let bytes = instruction.list[1] as usize;
    let source_offset = i64::from(instruction.list[0] as i32);
    let mut targets = base_addresses(warp, instruction.a, instruction.d & TARGET_WIDE != 0, instruction.immediate);
    let sources = base_addresses(warp, instruction.b, instruction.d & SOURCE_WIDE != 0, source_offset);
    if instruction.d & TARGET_GENERIC != 0 {
        for lane in lanes(mask) {
            let (region, within) = generic(targets[lane]);
            if region != Region::Shared {
                let message = "the target of cp.async is not in shared memory".to_string();
                return Err(block.fault(warp, lane, FaultKind::OutOfBounds, Some(targets[lane]), message));
            }
            targets[lane] = within;
        }
    }
    aligned(block, warp, mask, &targets, bytes)?;
    aligned(block, warp, mask, &sources, bytes)?;
    warp.order.advance();
    for lane in lanes(mask) {
        let taken = match instruction.c {
            NONE => bytes,
            row => (warp.registers.row(row)[lane] as usize).min(bytes),
        };
        let mut data = [0; 16];
        if taken > 0 {
            check_source(block, warp, lane, sources[lane], taken)?;
            for (index, byte) in data[..taken].iter_mut().enumerate() {
                // SAFETY: the range has just been checked; a byte is always aligned.
                *byte = unsafe { peek(sources[lane] + index as u64, 1) } as u8;
            }
        }
        let access = LaneAccess { lane, address: targets[lane], bytes, how: Use::Write };
        shared(block, warp, access, 0, PENDING)?;
        warp.copies.issue(lane, targets[lane] as u32, bytes as u8, data);
    }
    Ok(())
}

fn check_source(block: &mut Block<'_>, warp: &Warp, lane: usize, address: u64, taken: usize) -> Done {
    // Single bytes at both ends: alignment is that of the whole copy, which has been checked.
    let step = if taken.is_power_of_two() && address.is_multiple_of(taken as u64) { taken } else { 1 };
    let mut at = [0; 32];
    for offset in (0..taken).step_by(step) {
        at[lane] = address + offset as u64;
        global(block, warp, 1 << lane, &at, step, Use::Read)?;
    }
    Ok(())
}

/// `cp.async.commit_group`.
pub(crate) fn commit(_: &mut Block<'_>, warp: &mut Warp, _: &Instruction, mask: u32) -> Done {
    lanes(mask).for_each(|lane| warp.copies.commit(lane));
    Ok(())
}

/// `cp.async.wait_group` for `immediate` groups left, or `wait_all` where it is negative.
pub(crate) fn wait(block: &mut Block<'_>, warp: &mut Warp, instruction: &Instruction, mask: u32) -> Done {
    let pending = u32::try_from(instruction.immediate).ok();
    warp.order.advance();
    for lane in lanes(mask) {
        while let Some(copy) = warp.copies.complete(lane, pending) {
            let by = accessor(warp, lane, 0);
            block.shared.complete(&by, copy.target as usize, &copy.data[..copy.bytes as usize]);
        }
    }
    Ok(())
}
