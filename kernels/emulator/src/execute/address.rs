//! Addresses: which state space they fall into, and whether an access to them is allowed.

use super::block::{Block, REMEMBERED};
use super::shared::{Accessor, Hazard, STRONG};
use super::warp::Warp;
use crate::fault::{Done, Fault, FaultKind};
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

/// An access of one lane.
#[derive(Clone, Copy)]
pub(crate) struct LaneAccess {
    pub(crate) lane: usize,
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    pub(crate) how: Use,
}

impl LaneAccess {
    /// "a read of 4 bytes of ...".
    fn of(self, memory: &str) -> String {
        format!("a {} of {} bytes of {memory}", self.how.name(), self.bytes)
    }

    /// The end, if addresses go that far.
    fn end(self) -> Option<u64> {
        self.address.checked_add(self.bytes as u64)
    }
}

/// The lanes of a warp that access one space, and their addresses in it.
pub(crate) struct Lanes {
    pub(crate) mask: u32,
    pub(crate) at: [u64; LANES],
    pub(crate) access: Access,
}

impl Lanes {
    /// What a lane of them does.
    #[inline(always)]
    pub(crate) fn lane(&self, lane: usize, how: Use) -> LaneAccess {
        LaneAccess { lane, address: self.at[lane], bytes: self.access.total(), how }
    }
}

/// Executes a load, a store or an atomic operation, for each space that the addresses fall into.
#[inline(always)]
pub(crate) fn in_each_region(
    block: &mut Block<'_>,
    warp: &mut Warp,
    instruction: &Instruction,
    mask: u32,
    execute: impl Fn(&mut Block<'_>, &mut Warp, &Instruction, &Lanes) -> Done,
) -> Done {
    let access = Access::unpack(instruction.b);
    let at = addresses(warp, instruction, access.wide);
    if access.region != Region::Generic {
        return execute(block, warp, instruction, &Lanes { mask, at, access });
    }
    let mut parts: Vec<Lanes> = Vec::with_capacity(1);
    for lane in lanes(mask) {
        let (region, within) = generic(at[lane]);
        let found = parts.iter().position(|part| part.access.region == region).unwrap_or_else(|| {
            parts.push(Lanes { mask: 0, at: [0; LANES], access: Access { region, ..access } });
            parts.len() - 1
        });
        parts[found].mask |= 1 << lane;
        parts[found].at[lane] = within;
    }
    parts.iter().try_for_each(|part| execute(block, warp, instruction, part))
}

/// The address that each lane accesses: base `a` plus the immediate.
#[inline(always)]
fn addresses(warp: &Warp, instruction: &Instruction, wide: bool) -> [u64; LANES] {
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
pub(crate) fn aligned(block: &Block<'_>, warp: &Warp, mask: u32, addresses: &[u64; LANES], bytes: usize) -> Done {
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
) -> Done {
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
                tracked(block, warp, &found, LaneAccess { lane, address: addresses[lane], bytes, how })?;
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
) -> Done {
    let mut last: Option<Arc<Allocation>> = None;
    for lane in lanes(mask) {
        let access = LaneAccess { lane, address: addresses[lane], bytes, how };
        let inside = |found: &Arc<Allocation>| {
            access.address >= found.base
                && access.end().is_some_and(|end| end <= found.base + found.bytes as u64)
                && !found.is_freed()
        };
        let found = match last.take().filter(inside) {
            Some(found) => found,
            None => match block.memory.owner(access.address) {
                Owner::Live(found) if inside(&found) => found,
                owner => return Err(outside(block, warp, access, owner)),
            },
        };
        tracked(block, warp, &found, access)?;
        last = Some(found);
    }
    block.remembered[warp.now.pc as usize % REMEMBERED] = last;
    Ok(())
}

fn tracked(block: &Block<'_>, warp: &Warp, found: &Allocation, access: LaneAccess) -> Done {
    let LaneAccess { lane, address, bytes, how } = access;
    if how != Use::Write
        && let Some(byte) = found.unwritten(address, bytes)
    {
        let message = format!(
            "{}, of which byte {} of the allocation of {} bytes at {:#x} was never written",
            access.of("global memory"),
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

fn outside(block: &Block<'_>, warp: &Warp, access: LaneAccess, owner: Owner) -> Box<Fault> {
    let (what, address) = (access.of("global memory"), access.address);
    let (kind, message) = match owner {
        Owner::Live(found) => {
            let past = address + access.bytes as u64 - found.base - found.bytes as u64;
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
    block.fault(warp, access.lane, kind, Some(address), message)
}

/// Where an access to a space other than global memory starts in its bytes. Checks it; in shared memory, notes it.
#[inline(always)]
pub(crate) fn start(
    block: &mut Block<'_>,
    warp: &Warp,
    access: LaneAccess,
    region: Region,
    strong: bool,
) -> Done<usize> {
    match region {
        Region::Shared => shared(block, warp, access, if strong { STRONG } else { 0 }, 0),
        Region::Parameter => parameter(block, warp, access),
        _ => local(block, warp, access, region),
    }
}

/// Checks and notes an access to shared memory; `strong` is [`STRONG`] or 0, `flags` are added to the mark of a write.
#[inline(always)]
pub(crate) fn shared(block: &mut Block<'_>, warp: &Warp, access: LaneAccess, strong: u64, flags: u64) -> Done<usize> {
    let LaneAccess { lane, address, bytes, how } = access;
    let by = accessor(warp, lane, strong);
    let found = match how {
        Use::Read => block.shared.read(&by, address, bytes),
        Use::Write => block.shared.write(&by, address, bytes, flags),
        Use::Both => {
            block.shared.read(&by, address, bytes).and_then(|_| block.shared.write(&by, address, bytes, flags))
        }
    };
    found.map_err(|hazard| shared_fault(block, warp, access, hazard))
}

/// The thread of a lane, for shared memory.
pub(crate) fn accessor(warp: &Warp, lane: usize, strong: u64) -> Accessor<'_> {
    Accessor { warp: warp.index, order: &warp.order, group: &warp.now, lane: lane as u32, strong }
}

/// The fault for a hazard in shared memory.
#[cold]
fn shared_fault(block: &Block<'_>, warp: &Warp, access: LaneAccess, hazard: Hazard) -> Box<Fault> {
    let what = access.of("shared memory");
    let place = |thread: u32| {
        let [x, y, z] = block.position(thread);
        format!("({x}, {y}, {z})")
    };
    let (kind, at, message) = match hazard {
        Hazard::OutOfBounds => {
            let size = block.shared.bytes.len();
            (FaultKind::OutOfBounds, access.address, format!("{what} does not end within its {size} bytes"))
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
    block.fault(warp, access.lane, kind, Some(at), message)
}

/// Where in a warp's local memory an access starts.
#[inline(always)]
fn local(block: &Block<'_>, warp: &Warp, access: LaneAccess, region: Region) -> Done<usize> {
    let program = &block.entry.program;
    let size = if region == Region::Frame { warp.local_stride } else { program.local_bytes };
    if access.end().is_none_or(|end| end > size as u64) {
        let message = format!("{} does not end within its {size} bytes", access.of("local memory"));
        return Err(block.fault(warp, access.lane, FaultKind::OutOfBounds, Some(access.address), message));
    }
    Ok(access.lane * warp.local_stride + access.address as usize)
}

/// Where in the buffer of parameters a read starts.
fn parameter(block: &Block<'_>, warp: &Warp, access: LaneAccess) -> Done<usize> {
    let size = block.params.len() as u64;
    if access.how != Use::Read || access.end().is_none_or(|end| end > size) {
        let message = format!("{}, which are {size} bytes to be read", access.of("the parameters"));
        return Err(block.fault(warp, access.lane, FaultKind::OutOfBounds, Some(access.address), message));
    }
    Ok(access.address as usize)
}
