//! Allocation: device memory, managed memory, pinned host memory, and host memory that a program registers.

use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::argument::Out;
use super::context::{CONTEXTS, Context};
use super::error::Status;
use super::export::exports;
use super::{capture, current, device};
use crate::Memory;

/// Kinds of memory that the driver knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From `cuMemAlloc`.
    Device,
    /// From `cuMemAllocAsync`.
    Pool,
    /// A variable of a module.
    Module,
    /// From `cuMemAllocManaged`.
    Managed,
    /// From `cuMemHostAlloc`.
    Pinned,
    /// The program's own, registered.
    Registered,
}

impl Origin {
    /// Whether the host may access it.
    pub(super) fn is_host_visible(self) -> bool {
        matches!(self, Self::Managed | Self::Pinned | Self::Registered)
    }

    /// Whether it takes memory of the device.
    fn is_charged(self) -> bool {
        matches!(self, Self::Device | Self::Pool | Self::Managed)
    }
}

/// One range of memory.
#[derive(Debug)]
pub(super) struct Allocation {
    /// Its first byte.
    pub(super) base: u64,
    /// Its size, exact.
    pub(super) bytes: usize,
    /// Its kind.
    pub(super) origin: Origin,
    /// Context it was made in.
    pub(super) context: usize,
    /// Ordinal of the device of that context.
    pub(super) device: i32,
    /// Flags it was made with.
    pub(super) flags: c_uint,
    /// A number never used twice.
    pub(super) id: u64,
}

static ALLOCATIONS: RwLock<BTreeMap<u64, Arc<Allocation>>> = RwLock::new(BTreeMap::new());
/// Where memory comes from that the host may access too; each context registers it.
static HOST: LazyLock<Memory> = LazyLock::new(Memory::new);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Held while memory of the host appears in all contexts or goes from them, and while a context appears.
static SHARING: Mutex<()> = Mutex::new(());

const DEVICE_ALIGNMENT: usize = 256;
const HOST_ALIGNMENT: usize = 4096;

fn table() -> RwLockReadGuard<'static, BTreeMap<u64, Arc<Allocation>>> {
    ALLOCATIONS.read().unwrap_or_else(PoisonError::into_inner)
}

fn table_mut() -> RwLockWriteGuard<'static, BTreeMap<u64, Arc<Allocation>>> {
    ALLOCATIONS.write().unwrap_or_else(PoisonError::into_inner)
}

fn sharing() -> MutexGuard<'static, ()> {
    SHARING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes memory of the host and lets all contexts access it.
fn share(context: &Context, base: u64, bytes: usize, origin: Origin, flags: c_uint) {
    let _sharing = sharing();
    note(context, base, bytes, origin, flags);
    CONTEXTS.all().iter().for_each(|context| context.memory.register(base, bytes));
}

/// The allocation that an address falls into.
pub(super) fn find(address: u64) -> Option<Arc<Allocation>> {
    let table = table();
    let found = table.range(..=address).next_back()?.1;
    (address - found.base < found.bytes as u64).then(|| found.clone())
}

/// Whether any byte of a range belongs to an allocation.
pub(super) fn overlaps(address: u64, bytes: usize) -> bool {
    let last = address.saturating_add(bytes as u64 - 1);
    table().range(..=last).next_back().is_some_and(|entry| entry.1.base + (entry.1.bytes as u64) > address)
}

/// Notes a range that `context` can use; the memory itself is there already.
pub(super) fn note(context: &Context, base: u64, bytes: usize, origin: Origin, flags: c_uint) {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let (handle, device) = (context.handle, context.device);
    table_mut().insert(base, Arc::new(Allocation { base, bytes, origin, context: handle, device, flags, id }));
}

/// Allocates in a context.
pub(super) fn allocate(context: &Context, bytes: usize, origin: Origin, flags: c_uint) -> Result<u64, Status> {
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let device = device::get(context.device)?;
    if origin.is_charged() {
        device.charge(bytes)?;
    }
    let base = match origin.is_host_visible() {
        true => HOST.allocate(bytes, HOST_ALIGNMENT, false),
        false => context.memory.allocate(bytes, DEVICE_ALIGNMENT, true),
    };
    let Some(base) = base else {
        if origin.is_charged() {
            device.refund(bytes);
        }
        return Err(Status::OUT_OF_MEMORY);
    };
    match origin.is_host_visible() {
        true => share(context, base, bytes, origin, flags),
        false => note(context, base, bytes, origin, flags),
    }
    Ok(base)
}

/// Lets a new context access what the host and every other context can.
pub(super) fn show_host_memory(context: &Context) {
    let _sharing = sharing();
    let shared: Vec<_> = table().values().filter(|found| found.origin.is_host_visible()).cloned().collect();
    shared.iter().for_each(|found| context.memory.register(found.base, found.bytes));
}

/// Takes an allocation away, which `allowed` may refuse by its kind.
pub(super) fn release(address: u64, allowed: impl Fn(Origin) -> bool, refusal: Status) -> Result<(), Status> {
    let allocation = {
        let mut table = table_mut();
        match table.get(&address) {
            Some(found) if allowed(found.origin) => table.remove(&address).ok_or(refusal)?,
            _ => return Err(refusal),
        }
    };
    discard(&allocation);
    Ok(())
}

fn discard(allocation: &Allocation) {
    if allocation.origin.is_host_visible() {
        let _sharing = sharing();
        CONTEXTS.all().iter().for_each(|context| {
            context.memory.unregister(allocation.base);
        });
        let _ = HOST.free(allocation.base);
    } else if allocation.origin != Origin::Module
        && let Some(context) = CONTEXTS.find(allocation.context)
    {
        let _ = context.memory.free(allocation.base);
    }
    if allocation.origin.is_charged()
        && let Ok(device) = device::get(allocation.device)
    {
        device.refund(allocation.bytes);
    }
}

/// Bytes that were allocated in stream order on a device.
pub(super) fn pool_bytes(device: i32) -> u64 {
    let in_pool = |found: &&Arc<Allocation>| found.origin == Origin::Pool && found.device == device;
    table().values().filter(in_pool).map(|found| found.bytes as u64).sum()
}

/// Takes away everything that was made in a context.
pub(super) fn free_all(context: &Context) {
    let mut table = table_mut();
    let owned: Vec<_> = table.values().filter(|found| found.context == context.handle).cloned().collect();
    owned.iter().for_each(|found| {
        table.remove(&found.base);
    });
    drop(table);
    owned.iter().for_each(|found| discard(found));
}

fn allocate_pinned(out: Out<u64>, bytes: usize, flags: c_uint) -> Result<(), Status> {
    const FLAGS: c_uint = 7; // portable, mapped, write-combined
    let context = current::context()?;
    let out = out.required()?;
    if flags & !FLAGS != 0 {
        return Err(Status::INVALID_VALUE);
    }
    capture::refuse_unsafe_call()?;
    out.set(allocate(&context, bytes, Origin::Pinned, flags)?)
}

exports! {
    /// Allocates device memory; its bytes count as not written.
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let context = current::context()?;
        let address = address.required()?;
        capture::refuse_unsafe_call()?;
        address.set(allocate(&context, bytes, Origin::Device, 0)?)
    }

    /// Frees device or managed memory by its first byte.
    fn cuMemFree_v2(address: u64) {
        current::context()?;
        capture::refuse_unsafe_call()?;
        if address == 0 {
            return Ok(());
        }
        let allowed = |origin| matches!(origin, Origin::Device | Origin::Pool | Origin::Managed);
        release(address, allowed, Status::INVALID_VALUE)
    }

    /// Allocates memory that the host and kernels share.
    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: c_uint) {
        let context = current::context()?;
        let address = address.required()?;
        if !matches!(flags, 1 | 2) {
            return Err(Status::INVALID_VALUE);
        }
        capture::refuse_unsafe_call()?;
        address.set(allocate(&context, bytes, Origin::Managed, flags)?)
    }

    /// Allocates pinned host memory.
    fn cuMemAllocHost_v2(address: Out<u64>, bytes: usize) {
        allocate_pinned(address, bytes, 0)
    }

    /// Allocates pinned host memory with flags.
    fn cuMemHostAlloc(address: Out<u64>, bytes: usize, flags: c_uint) {
        allocate_pinned(address, bytes, flags)
    }

    /// Frees pinned host memory by its first byte.
    fn cuMemFreeHost(address: u64) {
        current::context()?;
        capture::refuse_unsafe_call()?;
        release(address, |origin| origin == Origin::Pinned, Status::INVALID_VALUE)
    }

    /// Lets kernels access memory of the program, to the exact byte.
    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: c_uint) {
        const KNOWN: c_uint = 0xf; // portable, mapped, device memory behind I/O, read-only
        const IO_OR_READ_ONLY: c_uint = 0xc;
        let context = current::context()?;
        if address == 0 || bytes == 0 || flags & !KNOWN != 0 || address.checked_add(bytes as u64).is_none() {
            return Err(Status::INVALID_VALUE);
        }
        if flags & IO_OR_READ_ONLY != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        capture::refuse_unsafe_call()?;
        if overlaps(address, bytes) {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        share(&context, address, bytes, Origin::Registered, flags);
        Ok(())
    }

    /// Takes registered memory away from kernels.
    fn cuMemHostUnregister(address: u64) {
        current::context()?;
        capture::refuse_unsafe_call()?;
        release(address, |origin| origin == Origin::Registered, Status::HOST_MEMORY_NOT_REGISTERED)
    }

    /// Address by which kernels access pinned or registered memory: the same one.
    fn cuMemHostGetDevicePointer_v2(device_address: Out<u64>, address: u64, flags: c_uint) {
        current::context()?;
        let known = find(address).filter(|found| matches!(found.origin, Origin::Pinned | Origin::Registered));
        if flags != 0 || known.is_none() {
            return Err(Status::INVALID_VALUE);
        }
        device_address.set(address)
    }

    /// Flags that pinned memory was allocated with.
    fn cuMemHostGetFlags(flags: Out<c_uint>, address: u64) {
        current::context()?;
        let found = find(address).filter(|found| matches!(found.origin, Origin::Pinned | Origin::Registered));
        flags.set(found.ok_or(Status::INVALID_VALUE)?.flags)
    }

    /// Bytes of device memory: free, and in all.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let context = current::context()?;
        let device = device::get(context.device)?;
        free.required()?;
        total.set(device.total)?;
        free.set(device.total - device.used())
    }
}
