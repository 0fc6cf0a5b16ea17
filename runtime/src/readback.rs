//! What the host reads of the device: a copy made in stream order, waited for when it is wanted.

use crate::device::DeviceKind;
use crate::error::Result;
use crate::event::Event;
use crate::memory::{Block, Tier};
use crate::runtime::Runtime;
use crate::stream::Queue;
use scalert_kernels::view::View;

/// A block of host memory that the device copies to.
pub(crate) struct Readback {
    block: Block,
    /// Completes with the last copy that was not captured into a graph.
    copied: Event,
}

impl Readback {
    /// The tier of such blocks, and of others that the host writes and the device reads.
    pub(crate) fn tier(runtime: &Runtime) -> Tier {
        match runtime.device() {
            DeviceKind::Cpu => Tier::Host,
            DeviceKind::Cuda => Tier::Pinned,
        }
    }

    /// Over a block of [`Readback::tier`]. `copied` was never recorded.
    pub(crate) fn new(block: Block, copied: Event) -> Readback {
        Readback { block, copied }
    }

    /// Its memory.
    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    /// Copies `from`, which fills the block.
    pub(crate) fn enqueue(&self, queue: &mut Queue<'_>, from: &View<'_>) -> Result<()> {
        let bytes = from.numel() * from.dtype().size();
        assert_eq!(bytes, self.block.bytes());
        // SAFETY: both have this many bytes; the block's owner reads them once the copy is done.
        unsafe { queue.copy(self.block.data().as_ptr(), from.data(), bytes) }?;
        // In a graph it would mark a place that never completes: whoever launches the graph knows when it is done.
        if queue.is_captured()? { Ok(()) } else { self.copied.record_in(queue) }
    }

    /// Waits for the last copy that was not captured, and reads the block.
    ///
    /// # Safety
    /// The block has a valid `T`.
    pub(crate) unsafe fn wait<T: Copy>(&self) -> Result<T> {
        assert_eq!(size_of::<T>(), self.block.bytes());
        self.copied.wait()?;
        // SAFETY: blocks are aligned for any type; the rest is the caller's promise. Graphs may be replayed meanwhile.
        Ok(unsafe { self.block.data().cast::<T>().as_ptr().read_volatile() })
    }
}
