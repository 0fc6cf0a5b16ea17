//! Hints about managed memory: they are checked, and change nothing.

use std::ffi::{c_int, c_uint};

use super::error::Status;
use super::export::exports;
use super::memory::{self, Origin};
use super::{current, device, stream};

/// A place for memory: its kind, and the ordinal of the device.
#[repr(C)]
#[derive(Clone, Copy)]
struct Location {
    kind: c_uint,
    id: c_int,
}

const DEVICE: c_uint = 1;
/// The host: all of it, or one of its nodes.
const HOST: std::ops::RangeInclusive<c_uint> = 2..=4;
/// Where the older functions mean the host.
const HOST_ORDINAL: c_int = -1;

impl Location {
    fn of_ordinal(ordinal: c_int) -> Self {
        Self { kind: if ordinal == HOST_ORDINAL { *HOST.start() } else { DEVICE }, id: ordinal }
    }

    fn check(self) -> Result<(), Status> {
        match self.kind {
            DEVICE => device::get(self.id).map(|_| ()),
            kind if HOST.contains(&kind) => Ok(()),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

/// A range has to be managed memory, all of it.
fn check_range(address: u64, bytes: usize) -> Result<(), Status> {
    let found = memory::find(address).filter(|found| found.origin == Origin::Managed).ok_or(Status::INVALID_VALUE)?;
    let room = found.bytes - (address - found.base) as usize;
    if bytes > 0 && bytes <= room { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

fn prefetch(address: u64, bytes: usize, place: Location, stream: usize) -> Result<(), Status> {
    let context = current::context()?;
    let stream = stream::resolve(stream, &context)?;
    check_range(address, bytes)?;
    place.check()?;
    stream.in_order(|| Ok(()))
}

fn advise(address: u64, bytes: usize, advice: c_int, place: Location) -> Result<(), Status> {
    /// Mostly read, preferred place, accessed by: set and unset.
    const ADVICE: std::ops::RangeInclusive<c_int> = 1..=6;
    const MOSTLY_READ: std::ops::RangeInclusive<c_int> = 1..=2;
    current::context()?;
    check_range(address, bytes)?;
    if !MOSTLY_READ.contains(&advice) {
        place.check()?;
    }
    if ADVICE.contains(&advice) { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

exports! {
    /// Moves managed memory in the order of a stream.
    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: c_int, stream: usize) {
        prefetch(address, bytes, Location::of_ordinal(device), stream)
    }

    /// Moves managed memory in the order of a stream.
    fn cuMemPrefetchAsync_v2(address: u64, bytes: usize, place: Location, flags: c_uint, stream: usize) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        prefetch(address, bytes, place, stream)
    }

    /// Says how managed memory will be used.
    fn cuMemAdvise(address: u64, bytes: usize, advice: c_int, device: c_int) {
        advise(address, bytes, advice, Location::of_ordinal(device))
    }

    /// Says how managed memory will be used.
    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: c_int, place: Location) {
        advise(address, bytes, advice, place)
    }

    /// Makes managed memory belong to a stream.
    fn cuStreamAttachMemAsync(stream: usize, address: u64, bytes: usize, flags: c_uint) {
        let context = current::context()?;
        let stream = stream::resolve(stream, &context)?;
        let found = memory::find(address).filter(|found| found.origin == Origin::Managed && found.base == address);
        let found = found.ok_or(Status::INVALID_VALUE)?;
        if !matches!(flags, 1 | 2 | 4) || (bytes != 0 && bytes != found.bytes) {
            return Err(Status::INVALID_VALUE);
        }
        stream.in_order(|| Ok(()))
    }
}
