//! Copies and fills.

use std::ffi::{c_uchar, c_uint, c_ushort};
use std::sync::Arc;

use super::context::{CONTEXTS, Context};
use super::error::Status;
use super::export::exports;
use super::memory::{self, Allocation};
use super::work::Work;
use super::{capture, current, fault, stream};

/// A copy of bytes.
pub(super) struct Copy {
    to: Side,
    from: Side,
    bytes: usize,
}

/// One side of a copy.
struct Side {
    address: u64,
    /// Whether the driver knew the memory when the copy was enqueued; else it is the program's own.
    known: bool,
}

/// What a caller says that an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Device,
    Host,
    Either,
}

/// A pattern that is repeated over device memory.
pub(super) struct Fill {
    to: u64,
    pattern: [u8; 4],
    width: usize,
    times: usize,
}

/// Bytes of a repeated pattern that are written in one piece.
const FILL_BLOCK: usize = 4096;

/// The allocation that a whole range lies in.
fn range(address: u64, bytes: usize) -> Option<Arc<Allocation>> {
    let found = memory::find(address)?;
    (bytes <= found.bytes - (address - found.base) as usize).then_some(found)
}

impl Side {
    fn checked(address: u64, bytes: usize, place: Place) -> Result<Self, Status> {
        let found = range(address, bytes);
        let allowed = match &found {
            Some(found) => place != Place::Host || found.origin.is_host_visible(),
            None => place != Place::Device && address != 0 && !memory::overlaps(address, bytes),
        };
        if allowed { Ok(Self { address, known: found.is_some() }) } else { Err(Status::INVALID_VALUE) }
    }

    /// The allocation now; an error when it is gone since the copy was recorded.
    fn allocation(&self, bytes: usize) -> Result<Option<Arc<Allocation>>, u64> {
        match range(self.address, bytes) {
            None if self.known => Err(self.address),
            found => Ok(found.filter(|_| self.known)),
        }
    }
}

/// The context that an allocation which only kernels see belongs to.
fn private(allocation: &Option<Arc<Allocation>>) -> Option<Arc<Context>> {
    let allocation = allocation.as_ref().filter(|found| !found.origin.is_host_visible())?;
    CONTEXTS.find(allocation.context)
}

impl Copy {
    /// Copies; memory that is gone is a fault.
    pub(super) fn run(&self, context: &Context) {
        let sides = self.to.allocation(self.bytes).and_then(|to| Ok((to, self.from.allocation(self.bytes)?)));
        match sides {
            Ok((to, from)) => self.copy(private(&to), private(&from)),
            Err(address) => fault::raise(context, fault::gone("copy", address)),
        }
    }

    fn copy(&self, to: Option<Arc<Context>>, from: Option<Arc<Context>>) {
        let (target, source) = (self.to.address, self.from.address);
        if let (Some(to), Some(from)) = (&to, &from)
            && to.handle == from.handle
            && to.memory.copy(target, source, self.bytes).is_ok()
        {
            return;
        }
        // SAFETY: each range lies in a live allocation or is memory of the program that it vouches for; they may overlap.
        unsafe { std::ptr::copy(source as *const u8, target as *mut u8, self.bytes) };
        if let Some(to) = to {
            to.memory.mark_initialised(target, self.bytes);
        }
    }
}

impl Fill {
    /// Fills; memory that is gone is a fault.
    pub(super) fn run(&self, context: &Context) {
        let bytes = self.times * self.width;
        let Some(allocation) = range(self.to, bytes) else {
            return fault::raise(context, fault::gone("fill", self.to));
        };
        let owner = private(&Some(allocation));
        let memory = owner.as_ref().map_or(&context.memory, |owner| &owner.memory);
        let block = self.pattern[..self.width].repeat(FILL_BLOCK / self.width);
        let (whole, rest) = (bytes / FILL_BLOCK, bytes % FILL_BLOCK);
        let mut filled = memory.fill(self.to, &block, whole);
        if rest > 0 {
            filled = filled.and_then(|()| memory.fill(self.to + (whole * FILL_BLOCK) as u64, &block[..rest], 1));
        }
        if filled.is_err() {
            fault::raise(context, fault::gone("fill", self.to));
        }
    }
}

fn copy(to: (u64, Place), from: (u64, Place), bytes: usize, stream: usize) -> Result<(), Status> {
    let context = current::context()?;
    let stream = stream::resolve(stream, &context)?;
    if bytes == 0 {
        return Ok(());
    }
    if [to.0, from.0].iter().any(|address| address.checked_add(bytes as u64).is_none()) || bytes > isize::MAX as usize {
        return Err(Status::INVALID_VALUE);
    }
    let (to, from) = (Side::checked(to.0, bytes, to.1)?, Side::checked(from.0, bytes, from.1)?);
    stream::enqueue(&stream, Work::Copy(Copy { to, from, bytes }))
}

/// A copy that the caller waits for.
fn copy_now(to: (u64, Place), from: (u64, Place), bytes: usize) -> Result<(), Status> {
    let context = current::context()?;
    stream::resolve(0, &context)?;
    capture::refuse_unsafe_call()?;
    copy(to, from, bytes, 0)?;
    context.check()
}

fn fill(to: u64, value: u32, width: usize, times: usize, stream: usize) -> Result<(), Status> {
    let context = current::context()?;
    let stream = stream::resolve(stream, &context)?;
    if times == 0 {
        return Ok(());
    }
    let bytes = times.checked_mul(width).ok_or(Status::INVALID_VALUE)?;
    if !to.is_multiple_of(width as u64) || range(to, bytes).is_none() {
        return Err(Status::INVALID_VALUE);
    }
    stream::enqueue(&stream, Work::Fill(Fill { to, pattern: value.to_le_bytes(), width, times }))
}

exports! {
    /// Copies between any two places and waits.
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        copy_now((to, Place::Either), (from, Place::Either), bytes)
    }

    /// Copies between any two places in the order of a stream.
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize) {
        copy((to, Place::Either), (from, Place::Either), bytes, stream)
    }

    /// Copies from the host to a device and waits.
    fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) {
        copy_now((to, Place::Device), (from, Place::Host), bytes)
    }

    /// Copies from the host to a device in the order of a stream.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        copy((to, Place::Device), (from, Place::Host), bytes, stream)
    }

    /// Copies from a device to the host and waits.
    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        copy_now((to, Place::Host), (from, Place::Device), bytes)
    }

    /// Copies from a device to the host in the order of a stream.
    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        copy((to, Place::Host), (from, Place::Device), bytes, stream)
    }

    /// Copies within and between devices.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        copy((to, Place::Device), (from, Place::Device), bytes, 0)
    }

    /// Copies within and between devices in the order of a stream.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        copy((to, Place::Device), (from, Place::Device), bytes, stream)
    }

    /// Copies between contexts in the order of a stream.
    fn cuMemcpyPeerAsync(to: u64, to_context: usize, from: u64, from_context: usize, bytes: usize, stream: usize) {
        current::context()?;
        CONTEXTS.find(to_context).and(CONTEXTS.find(from_context)).ok_or(Status::INVALID_CONTEXT)?;
        copy((to, Place::Device), (from, Place::Device), bytes, stream)
    }

    /// Sets bytes.
    fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) {
        fill(to, u32::from(value), 1, count, 0)
    }

    /// Sets pairs of bytes.
    fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) {
        fill(to, u32::from(value), 2, count, 0)
    }

    /// Sets groups of four bytes.
    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) {
        fill(to, value, 4, count, 0)
    }

    /// Sets bytes in the order of a stream.
    fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: usize) {
        fill(to, u32::from(value), 1, count, stream)
    }

    /// Sets pairs of bytes in the order of a stream.
    fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: usize) {
        fill(to, u32::from(value), 2, count, stream)
    }

    /// Sets groups of four bytes in the order of a stream.
    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) {
        fill(to, value, 4, count, stream)
    }
}
