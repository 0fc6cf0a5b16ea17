//! Streams: an order of work on a device, and the one way in which every operation runs.

use crate::error::{Error, Result};
use crate::event::Event;
use crate::exclusive::Exclusive;
use crate::memory::{Block, Purpose, Tier};
use crate::runtime::Runtime;
use scalert_kernels::backend::cpu::Cpu;
use scalert_kernels::ops::Op;
use std::ffi::c_void;
use std::sync::MutexGuard;

/// An order of work on a device, with the scratch memory ("workspace") of the operations enqueued on it.
///
/// One thread at a time; a second one gets `FAILED_PRECONDITION`. After a panic inside an operation every call gets
/// `INTERNAL`.
pub struct Stream {
    workspace: Exclusive<Workspace>,
    runtime: Runtime,
}

struct Workspace {
    block: Option<Block>,
}

impl Stream {
    /// A stream of the runtime's device. Its workspace is empty at first.
    pub fn new(runtime: &Runtime) -> Result<Stream> {
        Ok(Stream { workspace: Exclusive::new("stream", Workspace { block: None }), runtime: runtime.clone() })
    }

    /// Wraps the host's native stream; on the CPU device `native` must be null.
    pub fn wrap(runtime: &Runtime, native: *mut c_void) -> Result<Stream> {
        if !native.is_null() {
            return Err(Error::invalid("native", "must be NULL on the CPU device"));
        }
        Stream::new(runtime)
    }

    /// The runtime that it belongs to.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Makes the workspace at least `bytes` large.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        self.begin()?.reserve(bytes)
    }

    /// Blocks until everything enqueued so far is done; returns a failure of asynchronous work.
    pub fn wait(&self) -> Result<()> {
        self.begin().map(drop)
    }

    /// Work enqueued after this call runs after `event`.
    pub fn follow(&self, event: &Event) -> Result<()> {
        self.begin()?;
        event.wait()
    }

    /// Runs one operation: checks it, grows the workspace if it needs more, and computes. A failure changes nothing.
    pub fn submit<O: Op>(&self, op: &O) -> Result<()> {
        self.begin()?.submit(op)
    }

    /// Takes the stream for a sequence of operations.
    pub(crate) fn begin(&self) -> Result<Queue<'_>> {
        Ok(Queue { workspace: self.workspace.take()?, runtime: &self.runtime })
    }
}

/// A stream taken by one call. Dropped while unwinding, it poisons the stream.
pub(crate) struct Queue<'a> {
    workspace: MutexGuard<'a, Workspace>,
    runtime: &'a Runtime,
}

impl Queue<'_> {
    /// Prepares and runs one operation.
    pub(crate) fn submit<O: Op>(&mut self, op: &O) -> Result<()> {
        self.prepare(op)?;
        self.run(op);
        Ok(())
    }

    /// Checks an operation and makes the workspace large enough, so that [`Queue::run`] cannot fail.
    pub(crate) fn prepare<O: Op>(&mut self, op: &O) -> Result<()> {
        let refused = |invalid| Error::refused(O::NAME, invalid);
        op.check().map_err(refused)?;
        op.check_elements().map_err(refused)?;
        let bytes = op.workspace(self.runtime.threads() as usize) as u64;
        self.reserve(bytes).map_err(|mut error| {
            error.message = format!("{}: workspace: {}", O::NAME, error.message);
            error
        })
    }

    /// Computes. [`Queue::prepare`] passed for the same arguments.
    pub(crate) fn run<O: Op>(&mut self, op: &O) {
        let workspace: &mut [u8] = match &self.workspace.block {
            // SAFETY: the block is initialised memory of this size, and this call alone uses it.
            Some(block) => unsafe { std::slice::from_raw_parts_mut(block.data().as_ptr(), block.bytes()) },
            None => empty(),
        };
        op.cpu(&Cpu::new(self.runtime.level(), self.runtime.workers(), workspace));
    }

    /// Makes the workspace at least `bytes` large. A failure leaves the one that there is.
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        match &mut self.workspace.block {
            Some(block) if bytes <= block.bytes() as u64 => Ok(()),
            Some(block) => block.replace(bytes),
            None if bytes == 0 => Ok(()),
            empty => {
                *empty = Some(Block::new(self.runtime.memory(), Tier::Device, Purpose::Workspace, bytes, true)?);
                Ok(())
            }
        }
    }
}

/// No bytes, aligned as a workspace must be.
fn empty<'a>() -> &'a mut [u8] {
    #[repr(align(64))]
    struct Aligned([u8; 0]);
    const _: () = assert!(align_of::<Aligned>() >= Cpu::WORKSPACE_ALIGNMENT);
    // A box of a type without size takes no memory: nothing leaks.
    &mut Box::leak(Box::new(Aligned([]))).0
}
