//! The emulated global address space: which ranges of host memory a kernel may touch, and which bytes were written.
//!
//! Device addresses are host addresses. Freed memory stays mapped for a while, so that a kernel which still uses it is
//! told so, and its address is not handed out again at once.

use std::alloc::Layout;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes behind each allocation that belong to nobody, so that a small overrun hits nothing else.
const GUARD: usize = 256;

/// Freed bytes that stay mapped before the oldest are given back.
const QUARANTINE: usize = 64 << 20;

/// Freed ranges that are remembered.
const QUARANTINED_RANGES: usize = 4096;

/// The address space. A clone is another handle to the same one.
#[derive(Clone, Default)]
pub struct Memory {
    table: Arc<RwLock<Table>>,
}

#[derive(Default)]
struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: VecDeque<Arc<Allocation>>,
    quarantined: usize,
}

/// A range that kernels may access.
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) bytes: usize,
    owned: Option<Layout>,
    /// One byte for each byte: 1 once it has been written. Absent where this is not tracked.
    shadow: Option<Box<[AtomicU8]>>,
    freed: AtomicBool,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if let Some(layout) = self.owned {
            // SAFETY: `base` came from `alloc_zeroed` with this layout and is freed here only.
            unsafe { std::alloc::dealloc(self.base as *mut u8, layout) }
        }
    }
}

impl Allocation {
    /// Whether the range has been freed since it was found.
    pub(crate) fn is_freed(&self) -> bool {
        self.freed.load(Relaxed)
    }

    /// Whether reads of unwritten bytes are looked for.
    pub(crate) fn is_tracked(&self) -> bool {
        self.shadow.is_some()
    }

    /// Notes that a range within the allocation has been written.
    pub(crate) fn mark(&self, address: u64, bytes: usize) {
        if let Some(shadow) = &self.shadow {
            let start = (address - self.base) as usize;
            shadow[start..start + bytes].iter().for_each(|byte| byte.store(1, Relaxed));
        }
    }

    /// The first byte of a range within the allocation that has not been written.
    pub(crate) fn unwritten(&self, address: u64, bytes: usize) -> Option<u64> {
        let shadow = self.shadow.as_ref()?;
        let start = (address - self.base) as usize;
        let first = shadow[start..start + bytes].iter().position(|byte| byte.load(Relaxed) == 0)?;
        Some(address + first as u64)
    }
}

/// The address is not the start of a live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAddress(pub u64);

impl std::fmt::Display for UnknownAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x} is not in emulated device memory", self.0)
    }
}

impl std::error::Error for UnknownAddress {}

/// What an address belongs to.
pub(crate) enum Owner {
    Live(Arc<Allocation>),
    /// A range that was freed: its start and size.
    Freed(u64, usize),
    /// The nearest live range below, if any: its start and size.
    Nobody(Option<(u64, usize)>),
}

impl Memory {
    /// An empty address space.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn read_table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates zeroed memory, aligned to `align` (a power of two) or 256 bytes. With `tracked_uninitialised`, a
    /// kernel that reads a byte which neither a kernel nor [`Memory::mark_initialised`] has written faults. Nothing for zero
    /// bytes, and when memory runs out.
    pub fn allocate(&self, bytes: usize, align: usize, tracked_uninitialised: bool) -> Option<u64> {
        if bytes == 0 {
            return None;
        }
        let layout = Layout::from_size_align(bytes.checked_add(GUARD)?, align.max(256)).ok()?;
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) } as u64;
        if base == 0 {
            return None;
        }
        let shadow = tracked_uninitialised.then(|| (0..bytes).map(|_| AtomicU8::new(0)).collect());
        self.insert(Allocation { base, bytes, owned: Some(layout), shadow, freed: AtomicBool::new(false) });
        Some(base)
    }

    fn insert(&self, allocation: Allocation) {
        let mut table = self.write_table();
        let (start, end) = (allocation.base, allocation.base + allocation.bytes as u64);
        table.freed.retain(|old| old.owned.is_some() || old.base >= end || old.base + old.bytes as u64 <= start);
        table.live.insert(allocation.base, Arc::new(allocation));
    }

    /// Frees an allocation by its start; the number of bytes it had. Ranges that were registered are not freed by this.
    pub fn free(&self, address: u64) -> Result<usize, UnknownAddress> {
        let mut table = self.write_table();
        match table.live.get(&address) {
            Some(allocation) if allocation.owned.is_some() => {}
            _ => return Err(UnknownAddress(address)),
        }
        let bytes = Self::retire(&mut table, address).ok_or(UnknownAddress(address))?;
        Ok(bytes)
    }

    fn retire(table: &mut Table, address: u64) -> Option<usize> {
        let allocation = table.live.remove(&address)?;
        allocation.freed.store(true, Relaxed);
        let bytes = allocation.bytes;
        table.quarantined += if allocation.owned.is_some() { bytes } else { 0 };
        table.freed.push_back(allocation);
        while table.quarantined > QUARANTINE || table.freed.len() > QUARANTINED_RANGES {
            let oldest = table.freed.pop_front()?;
            table.quarantined -= if oldest.owned.is_some() { oldest.bytes } else { 0 };
        }
        Some(bytes)
    }

    /// Lets kernels access host memory. The caller keeps it alive until [`Memory::unregister`], and lets no Rust
    /// reference to it live while a kernel runs.
    pub fn register(&self, address: u64, bytes: usize) {
        self.insert(Allocation { base: address, bytes, owned: None, shadow: None, freed: AtomicBool::new(false) });
    }

    /// Takes registered host memory away from kernels; whether it was registered.
    pub fn unregister(&self, address: u64) -> bool {
        let mut table = self.write_table();
        match table.live.get(&address) {
            Some(allocation) if allocation.owned.is_none() => Self::retire(&mut table, address).is_some(),
            _ => false,
        }
    }

    /// The live range that an address falls into: its start and size.
    pub fn find(&self, address: u64) -> Option<(u64, usize)> {
        match self.owner(address) {
            Owner::Live(allocation) => Some((allocation.base, allocation.bytes)),
            _ => None,
        }
    }

    /// Notes that the host has written a range. What lies outside of one allocation is ignored.
    pub fn mark_initialised(&self, address: u64, bytes: usize) {
        if let Ok(allocation) = self.within(address, bytes) {
            allocation.mark(address, bytes);
        }
    }

    /// Copies from the host into one allocation, and marks the bytes as written.
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), UnknownAddress> {
        let allocation = self.within(address, from.len())?;
        // SAFETY: the range lies in the allocation, which the handle keeps alive.
        unsafe { std::ptr::copy(from.as_ptr(), address as *mut u8, from.len()) };
        allocation.mark(address, from.len());
        Ok(())
    }

    /// Copies from one allocation to the host.
    pub fn copy_out(&self, address: u64, to: &mut [u8]) -> Result<(), UnknownAddress> {
        let _alive = self.within(address, to.len())?;
        // SAFETY: the range lies in the allocation, which the handle keeps alive.
        unsafe { std::ptr::copy(address as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies between or within allocations; which bytes count as written is copied too.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), UnknownAddress> {
        let (source, target) = (self.within(from, bytes)?, self.within(to, bytes)?);
        // SAFETY: both ranges lie in allocations that the handles keep alive; `copy` allows overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        let state =
            |index: usize| source.shadow.as_ref().map_or(1, |s| s[(from - source.base) as usize + index].load(Relaxed));
        if let Some(shadow) = &target.shadow {
            let states: Vec<u8> = (0..bytes).map(state).collect();
            let start = (to - target.base) as usize;
            shadow[start..start + bytes].iter().zip(states).for_each(|(byte, state)| byte.store(state, Relaxed));
        }
        Ok(())
    }

    /// Repeats a pattern over a range of one allocation, and marks it as written.
    pub fn fill(&self, address: u64, pattern: &[u8], times: usize) -> Result<(), UnknownAddress> {
        let bytes = pattern.len().checked_mul(times).ok_or(UnknownAddress(address))?;
        let allocation = self.within(address, bytes)?;
        for time in 0..times {
            let at = address + (time * pattern.len()) as u64;
            // SAFETY: the whole range lies in the allocation, which the handle keeps alive.
            unsafe { std::ptr::copy(pattern.as_ptr(), at as *mut u8, pattern.len()) };
        }
        allocation.mark(address, bytes);
        Ok(())
    }

    /// The number of live ranges and of bytes in them.
    pub fn live(&self) -> (usize, usize) {
        let table = self.read_table();
        (table.live.len(), table.live.values().map(|allocation| allocation.bytes).sum())
    }

    fn within(&self, address: u64, bytes: usize) -> Result<Arc<Allocation>, UnknownAddress> {
        match self.owner(address) {
            Owner::Live(found) if (address - found.base) as usize + bytes <= found.bytes => Ok(found),
            _ => Err(UnknownAddress(address)),
        }
    }

    pub(crate) fn owner(&self, address: u64) -> Owner {
        let table = self.read_table();
        let below = table.live.range(..=address).next_back().map(|(_, allocation)| allocation);
        if let Some(found) = below.filter(|found| address - found.base < found.bytes as u64) {
            return Owner::Live(found.clone());
        }
        let freed = table.freed.iter().rev().find(|old| address >= old.base && address - old.base < old.bytes as u64);
        match freed {
            Some(old) => Owner::Freed(old.base, old.bytes),
            None => Owner::Nobody(below.map(|found| (found.base, found.bytes))),
        }
    }
}
