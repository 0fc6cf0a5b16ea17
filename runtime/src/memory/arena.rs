//! Arenas: memory for the host's activations, inside the budgets.

use super::{Block, Purpose, Tier};
use crate::device::DeviceKind;
use crate::error::{Error, Result, Status};
use crate::exclusive::Exclusive;
use crate::runtime::Runtime;
use std::ptr::NonNull;

/// One block of a tier, allocated at once and handed out in order; freed in the opposite order by rewinding.
pub struct Arena {
    // Bytes handed out.
    mark: Exclusive<u64>,
    block: Block,
    _runtime: Runtime,
}

impl Arena {
    /// Alignment of what [`Arena::alloc`] gives.
    pub const ALIGNMENT: u64 = Block::ALIGNMENT as u64;

    /// Allocates `bytes` of a tier: DEVICE or HOST, or PINNED on a CUDA device.
    pub fn new(runtime: &Runtime, tier: Tier, bytes: u64) -> Result<Arena> {
        let (tiers, must): (&[Tier], _) = match runtime.device() {
            DeviceKind::Cpu => (&[Tier::Device, Tier::Host], "DEVICE or HOST on the CPU device"),
            DeviceKind::Cuda => (&[Tier::Device, Tier::Pinned, Tier::Host], "DEVICE, PINNED or HOST"),
        };
        if !tiers.contains(&tier) {
            return Err(Error::invalid("tier", format!("{tier} must be {must}")));
        }
        let block = Block::new(runtime.memory(), tier, Purpose::Arena, bytes, false)?;
        Ok(Arena { mark: Exclusive::new("arena", 0), block, _runtime: runtime.clone() })
    }

    /// The next `bytes`, aligned to [`Arena::ALIGNMENT`] and uninitialised: valid until rewound or the arena is
    /// dropped. `OUT_OF_BUDGET` when the arena is exhausted. Not null even for 0 bytes.
    pub fn alloc(&self, bytes: u64) -> Result<NonNull<u8>> {
        let mut mark = self.mark.take()?;
        if bytes == 0 {
            return Ok(self.block.data());
        }
        let start = mark.next_multiple_of(Self::ALIGNMENT);
        let capacity = self.block.bytes() as u64;
        match start.checked_add(bytes) {
            Some(end) if end <= capacity => {
                *mark = end;
                // SAFETY: start lies below the capacity.
                Ok(unsafe { self.block.data().add(start as usize) })
            }
            _ => Err(Error::new(
                Status::OutOfBudget,
                format!(
                    "needs {bytes} bytes of the arena; it has {capacity}, used {}, available {}",
                    *mark,
                    capacity.saturating_sub(start)
                ),
            )),
        }
    }

    /// Bytes handed out so far.
    pub fn mark(&self) -> Result<u64> {
        Ok(*self.mark.take()?)
    }

    /// Takes back everything handed out since `mark`; 0 = everything.
    pub fn rewind(&self, mark: u64) -> Result<()> {
        let mut now = self.mark.take()?;
        if mark > *now {
            return Err(Error::invalid("mark", format!("{mark} must be at most the bytes handed out, {}", *now)));
        }
        *now = mark;
        Ok(())
    }
}
