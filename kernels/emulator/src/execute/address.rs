//! Addresses: which state space they fall into, and whether an access to them is allowed.

use super::block::{Block, REMEMBERED};
use super::shared::Hazard;
use super::warp::Warp;
use crate::fault::{Fault, FaultKind};
use crate::memory::{Allocation, Owner};
use crate::program::{Instruction, NONE};
use crate::registers::{LANES, lanes};
use std::sync::Arc;

/// Generic addresses of shared memory start here; those of global memory are host addresses, which are lower.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;

/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 56;

/// Generic addresses of the parameters of the kernel start here.
pub(crate) const PARAMETER_WINDOW: u64 = 3 << 56;

/// A state space as an instruction names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Region {
    Generic,
    Global,
    Shared,
    Local,
    Parameter,
    /// Arguments and results of inlined calls, behind local memory.
    Frame,
}

/// How an instruction accesses memory; packed into its field `b`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) region: Region,
    /// The base is a 64-bit register.
    pub(crate) wide: bool,
    /// Volatile, or with an order of its own.
    pub(crate) strong: bool,
    /// Values are sign-extended into their registers.
    pub(crate) signed: bool,
    /// Size of an element.
    pub(crate) bytes: u8,
    /// Number of elements.
    pub(crate) count: u8,
}

impl Access {
    pub(crate) fn pack(self) -> u32 {
        self.region as u32
            | u32::from(self.wide) << 4
            | u32::from(self.strong) << 5
            | u32::from(self.signed) << 6
            | u32::from(self.bytes) << 8
            | u32::from(self.count) << 16
    }

    #[inline(always)]
    pub(crate) fn unpack(bits: u32) -> Access {
        let region = match bits & 15 {
            0 => Region::Generic,
            1 => Region::Global,
            2 => Region::Shared,
            3 => Region::Local,
            4 => Region::Parameter,
            _ => Region::Frame,
        };
        Access {
            region,
            wide: bits >> 4 & 1 == 1,
            strong: bits >> 5 & 1 == 1,
            signed: bits >> 6 & 1 == 1,
            bytes: (bits >> 8) as u8,
            count: (bits >> 16) as u8,
        }
    }

    /// Bytes that a thread accesses.
    #[inline(always)]
    pub(crate) fn total(self) -> usize {
        self.bytes as usize * self.count as usize
    }
}

/// What is done to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
    Both,
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Use::Read => "read",
            Use::Write => "write",
            Use::Both => "atomic operation",
        }
    }
}

/// The address that each lane accesses: base `a` plus the immediate.
#[inline(always)]
pub(crate) fn addresses(warp: &Warp, instruction: &Instruction, wide: bool) -> [u64; LANES] {
    base_addresses(warp, instruction.a, wide, instruction.immediate)
}

#[inline(always)]
pub(crate) fn base_addresses(warp: &Warp, base: u32, wide: bool, offset: i64) -> [u64; LANES] {
    let offset = offset as u64;
    if base == NONE {
        return [offset; LANES];
    }
    if wide {
        let base = warp.registers.wide(base);
        std::array::from_fn(|lane| base[lane].wrapping_add(offset))
    } else {
        let base = warp.registers.row(base);
        std::array::from_fn(|lane| u64::from(base[lane].wrapping_add(offset as u32)))
    }
}

/// The space of a generic address, and the address within it.
pub(crate) fn generic(address: u64) -> (Region, u64) {
    let within = address & (SHARED_WINDOW - 1);
    match address >> 56 {
        1 => (Region::Shared, within),
        2 => (Region::Local, within),
        3 => (Region::Parameter, within),
        _ => (Region::Global, address),
    }
}

/// Faults unless an address is a multiple of the access.
#[inline(always)]
pub(crate) fn aligned(
    block: &Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &[u64; LANES],
    bytes: usize,
) -> Result<(), Box<Fault>> {
    let low = bytes as u64 - 1;
    let mut any = 0;
    for lane in 0..LANES {
        any |= if mask >> lane & 1 == 1 { addresses[lane] & low } else { 0 };
    }
    if any == 0 {
        return Ok(());
    }
    let lane = lanes(mask).find(|&lane| addresses[lane] & low != 0).unwrap_or(0);
    let message = format!("an access of {bytes} bytes to an address that is not a multiple of {bytes}");
    Err(block.fault(warp, lane, FaultKind::Misaligned, Some(addresses[lane]), message))
}

/// Faults unless every lane of a mask may access `bytes` at its address in global memory; notes what is written.
#[inline(always)]
pub(crate) fn global(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &[u64; LANES],
    bytes: usize,
    how: Use,
) -> Result<(), Box<Fault>> {
    aligned(block, warp, mask, addresses, bytes)?;
    let (mut low, mut high) = (u64::MAX, 0);
    for lane in 0..LANES {
        let active = mask >> lane & 1 == 1;
        low = low.min(if active { addresses[lane] } else { u64::MAX });
        high = high.max(if active { addresses[lane] } else { 0 });
    }
    let place = warp.now.pc as usize % REMEMBERED;
    if let Some(found) = &block.remembered[place] {
        let inside = low >= found.base
            && high.saturating_add(bytes as u64) <= found.base + found.bytes as u64
            && !found.is_freed();
        if inside && !found.is_tracked() {
            return Ok(());
        }
        if inside {
            let found = found.clone();
            for lane in lanes(mask) {
                tracked(block, warp, lane, &found, addresses[lane], bytes, how)?;
            }
            return Ok(());
        }
    }
    each_global(block, warp, mask, addresses, bytes, how)
}

#[cold]
fn each_global(
    block: &mut Block<'_>,
    warp: &Warp,
    mask: u32,
    addresses: &[u64; LANES],
    bytes: usize,
    how: Use,
) -> Result<(), Box<Fault>> {
    let mut last: Option<Arc<Allocation>> = None;
    for lane in lanes(mask) {
        let address = addresses[lane];
        let inside = |found: &Arc<Allocation>| {
            address >= found.base
                && address.saturating_add(bytes as u64) <= found.base + found.bytes as u64
                && !found.is_freed()
        };
        let found = match last.take().filter(inside) {
            Some(found) => found,
            None => match block.memory.owner(address) {
                Owner::Live(found) if inside(&found) => found,
                owner => return Err(outside(block, warp, lane, address, bytes, how, owner)),
            },
        };
        tracked(block, warp, lane, &found, address, bytes, how)?;
        last = Some(found);
    }
    block.remembered[warp.now.pc as usize % REMEMBERED] = last;
    Ok(())
}

fn tracked(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    found: &Allocation,
    address: u64,
    bytes: usize,
    how: Use,
) -> Result<(), Box<Fault>> {
    if how != Use::Write
        && let Some(byte) = found.unwritten(address, bytes)
    {
        let message = format!(
            "a {} of {bytes} bytes of global memory, of which byte {} of the allocation of {} bytes at {:#x} was never \
             written",
            how.name(),
            byte - found.base,
            found.bytes,
            found.base
        );
        return Err(block.fault(warp, lane, FaultKind::Uninitialised, Some(byte), message));
    }
    if how != Use::Read {
        found.mark(address, bytes);
    }
    Ok(())
}

fn outside(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    bytes: usize,
    how: Use,
    owner: Owner,
) -> Box<Fault> {
    let what = format!("a {} of {bytes} bytes of global memory", how.name());
    let (kind, message) = match owner {
        Owner::Live(found) => {
            let past = address + bytes as u64 - found.base - found.bytes as u64;
            let message = format!("{what} ends {past} bytes past the {} bytes at {:#x}", found.bytes, found.base);
            (FaultKind::OutOfBounds, message)
        }
        Owner::Freed(base, size) => {
            (FaultKind::UseAfterFree, format!("{what} in the {size} bytes at {base:#x}, which were freed"))
        }
        Owner::Nobody(Some((base, size))) => {
            let past = address - base - size as u64;
            (FaultKind::OutOfBounds, format!("{what}, {past} bytes past the end of the {size} bytes at {base:#x}"))
        }
        Owner::Nobody(None) => (FaultKind::OutOfBounds, format!("{what}, below every allocation")),
    };
    block.fault(warp, lane, kind, Some(address), message)
}

/// The fault for a hazard in shared memory.
#[cold]
pub(crate) fn shared_fault(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    bytes: usize,
    how: Use,
    hazard: Hazard,
) -> Box<Fault> {
    let what = format!("a {} of {bytes} bytes of shared memory", how.name());
    let place = |thread: u32| {
        let [x, y, z] = block.position(thread);
        format!("({x}, {y}, {z})")
    };
    let (kind, at, message) = match hazard {
        Hazard::OutOfBounds => {
            let size = block.shared.bytes.len();
            (FaultKind::OutOfBounds, address, format!("{what} does not end within its {size} bytes"))
        }
        Hazard::Uninitialised { byte } => {
            (FaultKind::Uninitialised, byte, format!("{what}, of which byte {byte:#x} was never written by the block"))
        }
        Hazard::Race { byte, thread, wrote } => {
            let other = if wrote { "written" } else { "read" };
            let message = format!(
                "{what}, of which byte {byte:#x} was {other} by thread {}, and nothing orders the two",
                place(thread)
            );
            (FaultKind::Race, byte, message)
        }
        Hazard::Pending { byte, thread } => {
            let message =
                format!("{what}, of which byte {byte:#x} is being filled by a cp.async of thread {}", place(thread));
            (FaultKind::PendingCopy, byte, message)
        }
    };
    block.fault(warp, lane, kind, Some(at), message)
}

/// Where in a warp's local memory a lane's access starts.
#[inline(always)]
pub(crate) fn local(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    bytes: usize,
    region: Region,
    how: Use,
) -> Result<usize, Box<Fault>> {
    let program = &block.entry.program;
    let size = if region == Region::Frame { warp.local_stride } else { program.local_bytes };
    if address.checked_add(bytes as u64).is_none_or(|end| end > size as u64) {
        let message = format!("a {} of {bytes} bytes of local memory does not end within its {size} bytes", how.name());
        return Err(block.fault(warp, lane, FaultKind::OutOfBounds, Some(address), message));
    }
    Ok(lane * warp.local_stride + address as usize)
}

/// Where in the buffer of parameters a lane's read starts.
pub(crate) fn parameter(
    block: &Block<'_>,
    warp: &Warp,
    lane: usize,
    address: u64,
    bytes: usize,
    how: Use,
) -> Result<usize, Box<Fault>> {
    let size = block.params.len() as u64;
    if how != Use::Read || address.checked_add(bytes as u64).is_none_or(|end| end > size) {
        let message = format!("a {} of {bytes} bytes of the parameters, which are {size} bytes to be read", how.name());
        return Err(block.fault(warp, lane, FaultKind::OutOfBounds, Some(address), message));
    }
    Ok(address as usize)
}
