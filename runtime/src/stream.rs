//! Streams: an order of work on a device, and the one way in which every operation runs.

use crate::cuda::{Context, Current};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::exclusive::Exclusive;
use crate::memory::{Block, Purpose, Tier};
use crate::runtime::Runtime;
use scalert_kernels::backend::cpu::Cpu;
use scalert_kernels::backend::cuda::Handle;
use scalert_kernels::ops::Op;
use std::ffi::c_void;
use std::sync::{Arc, MutexGuard};

/// An order of work on a device, with the scratch memory ("workspace") of the operations enqueued on it.
///
/// One thread at a time; a second one gets `FAILED_PRECONDITION`. After a panic inside an operation every call gets
/// `INTERNAL`.
pub struct Stream {
    workspace: Exclusive<Workspace>,
    native: Native,
    runtime: Runtime,
}

struct Workspace {
    block: Option<Block>,
}

/// The stream of the driver; null on the CPU.
struct Native {
    handle: Handle,
    /// The context of a stream that is destroyed with this.
    owned: Option<Arc<Context>>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

impl Drop for Native {
    fn drop(&mut self) {
        let Some(cuda) = &self.owned else { return };
        // A stream whose context is gone went with it.
        if let Ok(_current) = cuda.enter() {
            // SAFETY: created with the stream, and used no more; work under way goes on.
            let _ = unsafe { cuda.driver().stream_destroy(self.handle) };
        }
    }
}

impl Stream {
    /// A stream of the runtime's device. Its workspace is empty at first.
    pub fn new(runtime: &Runtime) -> Result<Stream> {
        const NON_BLOCKING: u32 = 1;
        let mut handle = std::ptr::null_mut();
        if let Some(cuda) = runtime.cuda() {
            let _current = cuda.enter()?;
            // SAFETY: writes one handle.
            unsafe { cuda.driver().stream_create(&mut handle, NON_BLOCKING, 0) }?;
        }
        Ok(Stream::of(runtime, Native { handle, owned: runtime.cuda().cloned() }))
    }

    /// Wraps the host's native stream, a CUstream of the runtime's context; null is the context's default stream. On the
    /// CPU device `native` must be null.
    pub fn wrap(runtime: &Runtime, native: *mut c_void) -> Result<Stream> {
        match runtime.cuda() {
            None if native.is_null() => Stream::new(runtime),
            None => Err(Error::invalid("native", "must be NULL on the CPU device")),
            Some(cuda) => {
                let _current = cuda.enter()?;
                let owns = cuda.owns(native).map_err(|error| {
                    let refused = Error::invalid("native", format!("is not a stream of CUDA: {}", error.message));
                    Error { native: error.native, ..refused }
                })?;
                if !owns {
                    return Err(Error::invalid(
                        "native",
                        "is a stream of another context; it must be of the one that was current, or of the device's \
                         primary one, when the runtime was created",
                    ));
                }
                Ok(Stream::of(runtime, Native { handle: native, owned: None }))
            }
        }
    }

    fn of(runtime: &Runtime, native: Native) -> Stream {
        Stream { workspace: Exclusive::new("stream", Workspace { block: None }), native, runtime: runtime.clone() }
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
        self.begin()?.wait()
    }

    /// Work enqueued after this call runs after `event`.
    pub fn follow(&self, event: &Event) -> Result<()> {
        event.precede(&self.begin()?)
    }

    /// Runs one operation: checks it, grows the workspace if it needs more, and computes. A failure changes nothing.
    pub fn submit<O: Op>(&self, op: &O) -> Result<()> {
        self.begin()?.submit(op)
    }

    /// Copies `bytes` bytes between any two places that the host or the device reads, in stream order.
    ///
    /// # Safety
    /// Both ranges are valid until the copy is done, apart, and not written by others meanwhile.
    pub unsafe fn copy(&self, to: *mut u8, from: *const u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.begin()?.copy(to, from, bytes) }
    }

    /// Takes the stream for a sequence of operations.
    pub(crate) fn begin(&self) -> Result<Queue<'_>> {
        let workspace = self.workspace.take()?;
        let cuda = match self.runtime.cuda() {
            None => None,
            Some(cuda) => Some(OnCuda { current: cuda.enter()?, context: cuda, stream: self.native.handle }),
        };
        Ok(Queue { cuda, workspace, runtime: &self.runtime })
    }
}

/// A stream taken by one call. Dropped while unwinding, it poisons the stream.
pub(crate) struct Queue<'a> {
    cuda: Option<OnCuda<'a>>,
    workspace: MutexGuard<'a, Workspace>,
    runtime: &'a Runtime,
}

/// A CUDA stream, its context being current.
pub(crate) struct OnCuda<'a> {
    #[expect(dead_code, reason = "held: the context stays current while the stream is taken")]
    current: Current<'a>,
    pub(crate) context: &'a Context,
    pub(crate) stream: Handle,
}

impl OnCuda<'_> {
    /// Whether the host records the stream into a graph.
    fn is_captured(&self) -> Result<bool> {
        let mut status = 0;
        // SAFETY: writes one integer.
        unsafe { self.context.driver().stream_is_capturing(self.stream, &mut status) }?;
        Ok(status != 0)
    }

    /// Refuses what cannot be recorded, before it would invalidate the capture.
    fn refuse_captured(&self, what: &str) -> Result<()> {
        if self.is_captured()? {
            return Err(Error::precondition(format!("the stream is being captured into a graph: {what}")));
        }
        Ok(())
    }
}

impl Queue<'_> {
    /// The CUDA stream; None on the CPU.
    pub(crate) fn cuda(&self) -> Option<&OnCuda<'_>> {
        self.cuda.as_ref()
    }

    /// Blocks until everything enqueued so far is done; returns a failure of asynchronous work.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let Some(cuda) = &self.cuda else { return Ok(()) };
        cuda.refuse_captured("it cannot be waited for")?;
        // SAFETY: a stream of the current context.
        Ok(unsafe { cuda.context.driver().stream_synchronize(cuda.stream) }?)
    }

    /// Prepares and runs one operation.
    pub(crate) fn submit<O: Op>(&mut self, op: &O) -> Result<()> {
        self.prepare(op)?;
        self.run(op)
    }

    /// Checks an operation and makes the workspace large enough, so that [`Queue::run`] can fail by the device alone.
    pub(crate) fn prepare<O: Op>(&mut self, op: &O) -> Result<()> {
        let refused = |invalid| Error::refused(O::NAME, invalid);
        op.check().map_err(refused)?;
        let bytes = match &self.cuda {
            None => {
                op.check_elements().map_err(refused)?;
                op.workspace(self.runtime.threads() as usize)
            }
            Some(cuda) => op.cuda_workspace(cuda.context.device().properties()),
        };
        self.reserve(bytes as u64).map_err(|mut error| {
            error.message = format!("{}: workspace: {}", O::NAME, error.message);
            error
        })
    }

    /// Computes, or on a CUDA device enqueues. [`Queue::prepare`] passed for the same arguments.
    pub(crate) fn run<O: Op>(&mut self, op: &O) -> Result<()> {
        let block = self.workspace.block.as_ref();
        if let Some(cuda) = &self.cuda {
            let (address, bytes) = block.map_or((0, 0), |block| (block.data().as_ptr() as u64, block.bytes()));
            // SAFETY: the stream lives as long as the queue; the workspace is this stream's alone, and is given back only
            // when its work is done.
            let gpu = unsafe { cuda.context.gpu(cuda.stream, address, bytes) };
            return op.cuda(&gpu).map_err(|error| {
                let mut error = Error::from(error);
                error.message = format!("{}: {}", O::NAME, error.message);
                error
            });
        }
        let workspace: &mut [u8] = match block {
            // SAFETY: the block is initialised memory of this size, and this call alone uses it.
            Some(block) => unsafe { std::slice::from_raw_parts_mut(block.data().as_ptr(), block.bytes()) },
            None => empty(),
        };
        op.cpu(&Cpu::new(self.runtime.level(), self.runtime.workers(), workspace));
        Ok(())
    }

    /// Copies bytes in stream order.
    ///
    /// # Safety
    /// As [`Stream::copy`].
    pub(crate) unsafe fn copy(&mut self, to: *mut u8, from: *const u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match &self.cuda {
            // SAFETY: the caller's promise.
            None => unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) },
            Some(cuda) => {
                // SAFETY: the caller's promise.
                unsafe { cuda.context.driver().copy_async(to as u64, from as u64, bytes, cuda.stream) }?;
            }
        }
        Ok(())
    }

    /// Sets bytes to zero in stream order.
    ///
    /// # Safety
    /// The range is valid until that is done, and not used by others meanwhile.
    pub(crate) unsafe fn zero(&mut self, to: *mut u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match &self.cuda {
            // SAFETY: the caller's promise.
            None => unsafe { to.write_bytes(0, bytes) },
            Some(cuda) => {
                // SAFETY: the caller's promise.
                unsafe { cuda.context.driver().set_bytes_async(to as u64, 0, bytes, cuda.stream) }?;
            }
        }
        Ok(())
    }

    /// Makes the workspace at least `bytes` large. A failure leaves the one that there is.
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.workspace.block.as_ref().map_or(0, |block| block.bytes() as u64) {
            return Ok(());
        }
        if let Some(cuda) = &self.cuda {
            cuda.refuse_captured(&format!(
                "its workspace cannot grow to {bytes} bytes; call scalert_stream_reserve before"
            ))?;
        }
        match &mut self.workspace.block {
            Some(block) => block.replace(bytes),
            empty => {
                let zeroed = self.cuda.is_none();
                *empty = Some(Block::new(self.runtime.memory(), Tier::Device, Purpose::Workspace, bytes, zeroed)?);
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
