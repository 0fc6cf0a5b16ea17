//! Owned memory of a tier, entered in the ledger.

use super::{Charge, Ledger, Purpose, Tier};
use crate::cuda::Context;
use crate::error::{Error, NativeDomain, Result, Status};
use scalert_kernels::backend::cuda::Gpu;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

/// Where memory comes from instead of the system. Called from any thread; must not call the library.
///
/// On a CUDA device the runtime's context is current: DEVICE is memory of the device, and PINNED is host memory that the
/// hook has pinned.
pub trait Allocator: Send + Sync {
    /// `bytes > 0` of a tier, aligned; None when it cannot.
    fn alloc(&self, bytes: usize, alignment: usize, tier: Tier, ordinal: i32) -> Option<NonNull<u8>>;

    /// Takes memory back.
    ///
    /// # Safety
    /// `memory` came from [`Allocator::alloc`] with the same other arguments, and is used no more.
    unsafe fn free(&self, memory: NonNull<u8>, bytes: usize, alignment: usize, tier: Tier, ordinal: i32);
}

/// From this size on, the system's memory is mapped, in huge pages where the system has them.
const MAPPED_BYTES: usize = 4 << 20;

/// The memory of one device: its ledger and where its bytes come from.
pub(crate) struct Memory {
    ledger: Ledger,
    allocator: Option<Arc<dyn Allocator>>,
    ordinal: i32,
    cuda: Option<Arc<Context>>,
}

impl Memory {
    /// `cuda` is the context of the device, if it is a CUDA device.
    pub(crate) fn new(
        ledger: Ledger,
        allocator: Option<Arc<dyn Allocator>>,
        ordinal: i32,
        cuda: Option<Arc<Context>>,
    ) -> Memory {
        Memory { ledger, allocator, ordinal, cuda }
    }

    /// The context, where memory of the tier is not the host's.
    fn device(&self, tier: Tier) -> Option<&Arc<Context>> {
        self.cuda.as_ref().filter(|_| tier == Tier::Device)
    }

    /// Alignment of the blocks of a tier.
    fn alignment(&self, tier: Tier) -> usize {
        if self.device(tier).is_some() { Block::DEVICE_ALIGNMENT } else { Block::ALIGNMENT }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn allocate(&self, tier: Tier, bytes: usize, zeroed: bool) -> Result<(NonNull<u8>, Source)> {
        if self.allocator.is_some() {
            return self.ask_hook(tier, bytes, zeroed).map(|memory| (memory, Source::Hook));
        }
        if let Some(context) = self.device(tier) {
            let memory = context.allocate(bytes).map_err(|mut error| {
                error.message = format!("{bytes} bytes of {tier}: {}", error.message);
                error
            })?;
            if zeroed {
                // SAFETY: just allocated; nothing else uses it.
                unsafe { context.clear(memory, bytes).inspect_err(|_| context.free(memory)) }?;
            }
            return Ok((memory, Source::Device));
        }
        let out_of_memory = || {
            let message = format!("the system did not give {bytes} bytes of {tier}");
            Error::new(Status::OutOfMemory, message)
                .with_native(NativeDomain::Errno, std::io::Error::last_os_error().raw_os_error().unwrap_or(0).into())
        };
        if let Some(context) = self.cuda.as_ref().filter(|_| tier == Tier::Pinned) {
            let memory = map(bytes).ok_or_else(out_of_memory)?;
            // SAFETY: just mapped; stays until it is unpinned.
            let pinned = unsafe { context.pin(memory, bytes) };
            return pinned.map(|()| (memory, Source::Pinned)).map_err(|mut error| {
                // SAFETY: mapped above, and used by nothing.
                unsafe { libc::munmap(memory.as_ptr().cast(), bytes) };
                error.message = format!("{bytes} bytes of {tier}: {}", error.message);
                error
            });
        }
        if bytes >= MAPPED_BYTES {
            return map(bytes).map(|memory| (memory, Source::Map)).ok_or_else(out_of_memory);
        }
        let layout = Layout::from_size_align(bytes, Block::ALIGNMENT).map_err(|_| out_of_memory())?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { if zeroed { std::alloc::alloc_zeroed(layout) } else { std::alloc::alloc(layout) } };
        NonNull::new(memory).map(|memory| (memory, Source::Heap)).ok_or_else(out_of_memory)
    }
}

impl Memory {
    /// An aligned address of no bytes.
    fn nowhere(&self, tier: Tier) -> NonNull<u8> {
        NonNull::without_provenance(self.alignment(tier).try_into().expect("not zero"))
    }

    fn ask_hook(&self, tier: Tier, bytes: usize, zeroed: bool) -> Result<NonNull<u8>> {
        let allocator = self.allocator.as_ref().expect("the caller saw it");
        let alignment = self.alignment(tier);
        let refused = |why: &str| {
            let message = format!("the allocator hook {why}: {bytes} bytes of {tier}");
            Error::new(Status::OutOfMemory, message).with_native(NativeDomain::HostCallback, 0)
        };
        let _entered = self.cuda.as_ref().map(|context| context.enter()).transpose()?;
        let memory = allocator.alloc(bytes, alignment, tier, self.ordinal).ok_or_else(|| refused("returned NULL"))?;
        let give_back = || {
            // SAFETY: just allocated with these arguments.
            unsafe { allocator.free(memory, bytes, alignment, tier, self.ordinal) }
        };
        if !memory.addr().get().is_multiple_of(alignment) {
            give_back();
            return Err(refused(&format!("returned memory that is not aligned to {alignment} bytes")));
        }
        match self.device(tier) {
            _ if !zeroed => {}
            // SAFETY: the hook gave `bytes` bytes of the device.
            Some(context) => unsafe { context.clear(memory, bytes).inspect_err(|_| give_back()) }?,
            // SAFETY: the hook gave `bytes` writable bytes.
            None => unsafe { memory.write_bytes(0, bytes) },
        }
        Ok(memory)
    }
}

/// Maps zeroed memory, which the system gives in huge pages where it can.
fn map(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private mapping, which touches nothing that exists.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return None;
    }
    #[cfg(target_os = "linux")]
    // SAFETY: advice about the mapping just made; where it is refused, pages stay small.
    unsafe {
        libc::madvise(memory, bytes, libc::MADV_HUGEPAGE)
    };
    NonNull::new(memory.cast())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Nothing: a block of no bytes.
    Nothing,
    Hook,
    Heap,
    Map,
    /// The driver of a CUDA device.
    Device,
    /// Mapped, and pinned by the driver.
    Pinned,
}

/// Memory of a tier, owned and entered in the ledger; given back when dropped.
pub(crate) struct Block {
    memory: Arc<Memory>,
    tier: Tier,
    charge: Charge,
    data: NonNull<u8>,
    source: Source,
}

// SAFETY: a block owns its memory; who reads and writes it is decided by those who hold the block.
unsafe impl Send for Block {}
// SAFETY: as above; the block itself is immutable.
unsafe impl Sync for Block {}

impl Block {
    /// Alignment of every block in bytes.
    pub(crate) const ALIGNMENT: usize = 64;
    /// Alignment of blocks in the memory of a CUDA device.
    const DEVICE_ALIGNMENT: usize = Gpu::WORKSPACE_ALIGNMENT;

    /// `bytes` of a tier.
    pub(crate) fn new(memory: &Arc<Memory>, tier: Tier, purpose: Purpose, bytes: u64, zeroed: bool) -> Result<Block> {
        let mut blocks = Block::new_all(memory, tier, &[Charge { purpose, bytes }], zeroed)?;
        Ok(blocks.swap_remove(0))
    }

    /// One block for each charge, or none at all. The budget is asked once, for the sum.
    pub(crate) fn new_all(memory: &Arc<Memory>, tier: Tier, charges: &[Charge], zeroed: bool) -> Result<Vec<Block>> {
        memory.ledger.charge(tier, charges)?;
        let mut blocks = Vec::with_capacity(charges.len());
        for (i, &charge) in charges.iter().enumerate() {
            let allocated = match usize::try_from(charge.bytes) {
                Ok(0) => Ok((memory.nowhere(tier), Source::Nothing)),
                Ok(bytes) => memory.allocate(tier, bytes, zeroed),
                Err(_) => Err(beyond_address_space(charge.bytes, tier)),
            };
            match allocated {
                Ok((data, source)) => {
                    blocks.push(Block { memory: Arc::clone(memory), tier, charge, data, source });
                }
                Err(error) => {
                    // The blocks made so far give back their own charges.
                    charges[i..].iter().for_each(|c| memory.ledger.credit(tier, *c));
                    return Err(error);
                }
            }
        }
        Ok(blocks)
    }

    /// Becomes a larger block of `bytes` zeroed bytes, or stays as it is. The budget is to hold the larger one alone.
    ///
    /// The old memory is given back only when the new one is there: whatever else takes memory meanwhile, a failure
    /// leaves it. Until then no byte of the new one is touched where the system maps it.
    ///
    /// Memory of a CUDA device is all there from the start, so the old one is given back first: both at once would
    /// exceed the budget. When the new one cannot be had, the old one is taken again, or the block ends up empty.
    pub(crate) fn replace(&mut self, bytes: u64) -> Result<()> {
        let (tier, purpose) = (self.tier, self.charge.purpose);
        let more = Charge { purpose, bytes: bytes.saturating_sub(self.charge.bytes) };
        self.memory.ledger.charge_more(tier, self.charge.bytes, more)?;
        // The new block's charge is the old one's and what it takes more.
        let charge = Charge { purpose, bytes: self.charge.bytes + more.bytes };
        let gives_back_first = self.memory.device(tier).is_some();
        if gives_back_first {
            self.release();
        }
        let allocated = usize::try_from(charge.bytes)
            .map_err(|_| beyond_address_space(charge.bytes, tier))
            .and_then(|bytes| self.memory.allocate(tier, bytes, true));
        match allocated {
            Ok((data, source)) => {
                self.release();
                (self.data, self.source, self.charge) = (data, source, charge);
                Ok(())
            }
            Err(error) => {
                self.memory.ledger.credit(tier, more);
                if gives_back_first {
                    self.restore();
                }
                Err(error)
            }
        }
    }

    /// Takes memory again after [`Block::release`]; without it, the block is empty and its charge given back.
    fn restore(&mut self) {
        let again = match self.bytes() {
            0 => None,
            bytes => self.memory.allocate(self.tier, bytes, false).ok(),
        };
        (self.data, self.source) = again.unwrap_or_else(|| {
            self.memory.ledger.credit(self.tier, self.charge);
            self.charge.bytes = 0;
            (self.memory.nowhere(self.tier), Source::Nothing)
        });
    }

    /// Its first byte; aligned and not null even when there are none.
    pub(crate) fn data(&self) -> NonNull<u8> {
        self.data
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.bytes as usize
    }
}

fn beyond_address_space(bytes: u64, tier: Tier) -> Error {
    Error::new(Status::OutOfMemory, format!("{bytes} bytes of {tier} exceed the address space"))
}

impl Drop for Block {
    fn drop(&mut self) {
        self.release();
        self.memory.ledger.credit(self.tier, self.charge);
    }
}

impl Block {
    /// Gives the memory back to where it came from, but not its charge. The block has none from then on.
    fn release(&mut self) {
        let bytes = self.bytes();
        let source = std::mem::replace(&mut self.source, Source::Nothing);
        // The driver gives its own memory back when work is done with it. What others free must wait for that.
        if let (Source::Hook | Source::Pinned, Some(context)) = (source, &self.memory.cuda)
            && self.tier != Tier::Host
        {
            context.settle();
        }
        // SAFETY: the memory came from this source with these arguments, and the block's owner is done with it.
        unsafe {
            match source {
                Source::Nothing => {}
                Source::Hook => {
                    let hook = self.memory.allocator.as_ref().expect("the block came from it");
                    // A context that is lost is not current: the hook frees as far as it can.
                    let _entered = self.memory.cuda.as_ref().and_then(|context| context.enter_to_release());
                    hook.free(self.data, bytes, self.memory.alignment(self.tier), self.tier, self.memory.ordinal);
                }
                Source::Heap => {
                    std::alloc::dealloc(self.data.as_ptr(), Layout::from_size_align_unchecked(bytes, Block::ALIGNMENT));
                }
                Source::Map => {
                    libc::munmap(self.data.as_ptr().cast(), bytes);
                }
                Source::Device => self.memory.cuda.as_ref().expect("the block came from it").free(self.data),
                Source::Pinned => {
                    self.memory.cuda.as_ref().expect("the block was pinned by it").unpin(self.data);
                    libc::munmap(self.data.as_ptr().cast(), bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(budget: u64) -> Arc<Memory> {
        Arc::new(Memory::new(Ledger::new([budget, 0, 0, 0]), None, 0, None))
    }

    #[test]
    fn blocks_are_aligned_zeroed_usable_and_given_back() {
        let memory = memory(0);
        for bytes in [0, 1, 63, 4096, MAPPED_BYTES - 1, MAPPED_BYTES, MAPPED_BYTES + 1] {
            let block = Block::new(&memory, Tier::Device, Purpose::Other, bytes as u64, true).unwrap();
            assert!(block.data().addr().get().is_multiple_of(64));
            assert_eq!(memory.ledger().report().tier[0].other, bytes as u64);
            // SAFETY: the block has this many initialised bytes, used here alone.
            let slice = unsafe { std::slice::from_raw_parts_mut(block.data().as_ptr(), block.bytes()) };
            assert!(slice.iter().all(|b| *b == 0));
            slice.fill(7);
        }
        assert_eq!(memory.ledger().report().tier[0].used, 0);
        assert_eq!(memory.ledger().report().tier[0].peak, MAPPED_BYTES as u64 + 1);
    }

    #[test]
    fn what_the_system_cannot_give_is_out_of_memory() {
        let memory = memory(0);
        let small = Charge { purpose: Purpose::Weights, bytes: 64 };
        for bytes in [1 << 60, u64::MAX - 64] {
            let charges = [small, Charge { purpose: Purpose::Master, bytes }, small];
            if charges.iter().try_fold(0u64, |s, c| s.checked_add(c.bytes)).is_none() {
                continue;
            }
            let error = Block::new_all(&memory, Tier::Device, &charges, true).err().expect("too large");
            assert_eq!(error.status, Status::OutOfMemory, "{error}");
            assert_eq!(memory.ledger().report().tier[0].used, 0);
        }
    }

    #[test]
    fn the_budget_is_asked_for_the_sum() {
        let memory = memory(100);
        let charge = Charge { purpose: Purpose::Weights, bytes: 60 };
        let error = Block::new_all(&memory, Tier::Device, &[charge, charge], false).err().expect("120 of 100");
        assert_eq!(error.message, "needs 120 bytes of DEVICE; budget 100, used 0, available 100");
        assert_eq!(memory.ledger().report().tier[0].peak, 0);
    }
}
