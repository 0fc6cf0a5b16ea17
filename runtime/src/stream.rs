//! Streams: an order of work on a device, and the one way in which every operation runs.

use crate::cuda::{Capture, Entered, NativeStream};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::exclusive::Exclusive;
use crate::memory::{Block, Purpose, Tier};
use crate::runtime::Runtime;
use crate::trace::{Span, Watched};
use scalert_kernels::backend::cpu::Cpu;
use scalert_kernels::ops::Op;
use std::ffi::c_void;
use std::sync::MutexGuard;

/// An order of work on a device, with the scratch memory ("workspace") of the operations enqueued on it.
///
/// One thread at a time; a second one gets `FAILED_PRECONDITION`. After a panic inside an operation every call gets
/// `INTERNAL`.
pub struct Stream {
    /// Tells the streams of a runtime apart: 1, 2, ...
    number: u64,
    workspace: Exclusive<Workspace>,
    /// None on the CPU device.
    native: Option<NativeStream>,
    runtime: Runtime,
}

#[derive(Default)]
struct Workspace {
    block: Option<Block>,
    /// Whether a graph that was captured on the stream uses the block: it stays where it is while the stream lives.
    captured: bool,
    /// Blocks that such graphs use, and that were too small later.
    retired: Vec<Block>,
}

impl Stream {
    /// A stream of the runtime's device. Its workspace is empty at first.
    pub fn new(runtime: &Runtime) -> Result<Stream> {
        Ok(Stream::over(runtime, runtime.cuda().map(NativeStream::new).transpose()?))
    }

    /// Wraps the host's native stream. On the CPU device `native` must be null; on a CUDA device it is a stream of the
    /// runtime's context, null being the default one, which outlives this.
    pub fn wrap(runtime: &Runtime, native: *mut c_void) -> Result<Stream> {
        let Some(context) = runtime.cuda() else {
            if !native.is_null() {
                return Err(Error::invalid("native", "must be NULL on the CPU device"));
            }
            return Stream::new(runtime);
        };
        Ok(Stream::over(runtime, Some(NativeStream::wrap(context, native)?)))
    }

    fn over(runtime: &Runtime, native: Option<NativeStream>) -> Stream {
        let number = runtime.watch().number_stream();
        Stream { number, workspace: Exclusive::new("stream", Workspace::default()), native, runtime: runtime.clone() }
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

    /// Work enqueued after this call runs after `event`. On the CPU device this waits for an event of another one.
    pub fn follow(&self, event: &Event) -> Result<()> {
        self.begin()?.follow(event)
    }

    /// Runs one operation: checks it, grows the workspace if it needs more, and computes. A failure changes nothing.
    pub fn submit<O: Op>(&self, op: &O) -> Result<()> {
        self.begin()?.submit(op)
    }

    /// Copies `bytes` bytes in stream order between any memory of the host and the device.
    ///
    /// Pinned host memory is copied asynchronously; other host memory may make the call wait for the copy. A stream under
    /// capture copies no host memory that is not pinned.
    ///
    /// # Safety
    /// Both addresses have that many bytes, which do not overlap and which nothing else writes until the work is done.
    pub unsafe fn copy(&self, to: *mut u8, from: *const u8, bytes: usize) -> Result<()> {
        let mut queue = self.begin()?;
        if let Some(native) = queue.native {
            native.expect_capturable("to", to)?;
            native.expect_capturable("from", from)?;
        }
        // SAFETY: the caller's promise.
        unsafe { queue.copy(to, from, bytes) }
    }

    /// Takes the stream for a sequence of operations.
    pub(crate) fn begin(&self) -> Result<Queue<'_>> {
        let workspace = self.workspace.take()?;
        let entered = self.native.as_ref().map(|native| native.context().enter()).transpose()?;
        let (number, native, runtime) = (self.number, self.native.as_ref(), &self.runtime);
        Ok(Queue { number, workspace, native, runtime, _entered: entered })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The workspace is given back next; what uses it is done by then.
        if let Some(native) = &self.native
            && let Some(_entered) = native.context().enter_to_release()
            && native.capture() == Ok(Capture::None)
        {
            let _ = native.wait();
        }
    }
}

/// A stream taken by one call. Dropped while unwinding, it poisons the stream. On a CUDA device the context is entered.
pub(crate) struct Queue<'a> {
    number: u64,
    workspace: MutexGuard<'a, Workspace>,
    native: Option<&'a NativeStream>,
    runtime: &'a Runtime,
    _entered: Option<Entered>,
}

impl<'a> Queue<'a> {
    /// The stream of the driver; None on the CPU device.
    pub(crate) fn native(&self) -> Option<&NativeStream> {
        self.native
    }

    /// Which stream of its runtime it is.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The runtime that the stream belongs to.
    pub(crate) fn runtime(&self) -> &'a Runtime {
        self.runtime
    }

    /// Shows work to whoever watches, until the result is dropped.
    pub(crate) fn watch(
        &self,
        name: &'static str,
        describe: impl FnOnce() -> (u64, Option<&'static str>),
    ) -> Option<Watched<'a>> {
        self.runtime.watch().watch(self.native, || {
            let (bytes, implementation) = describe();
            Span { name: name.as_bytes(), bytes, implementation, stream: self.number, is_range: false }
        })
    }

    /// Prepares and runs one operation.
    pub(crate) fn submit<O: Op>(&mut self, op: &O) -> Result<()> {
        self.prepare(op)?;
        self.run(op)
    }

    /// Checks an operation and makes the workspace large enough, so that [`Queue::run`] fails only if the device does.
    pub(crate) fn prepare<O: Op>(&mut self, op: &O) -> Result<()> {
        let refused = |invalid| Error::refused(O::NAME, invalid);
        op.check().map_err(refused)?;
        let bytes = match self.native {
            Some(native) => {
                expect_reachable(native, op).map_err(|error| in_front(&format!("{}: ", O::NAME), error))?;
                op.cuda_workspace(native.context().device().properties())
            }
            None => {
                op.check_elements().map_err(refused)?;
                op.workspace(self.runtime.threads() as usize)
            }
        };
        self.reserve(bytes as u64).map_err(|error| in_front(&format!("{}: workspace: ", O::NAME), error))?;
        if let Some(native) = self.native
            && bytes > 0
            && !self.workspace.captured
        {
            self.workspace.captured = matches!(native.capture()?, Capture::Active(_));
        }
        Ok(())
    }

    /// Computes, or enqueues that on a CUDA device. [`Queue::prepare`] passed for the same arguments.
    pub(crate) fn run<O: Op>(&mut self, op: &O) -> Result<()> {
        let _watched = self.watch(O::NAME, || {
            let implementation = self.native.and_then(|native| op.implementation(native.context().device()));
            (bytes_of(op), implementation)
        });
        let block = self.workspace.block.as_ref().filter(|block| block.bytes() > 0);
        let Some(native) = self.native else {
            let workspace: &mut [u8] = match block {
                // SAFETY: the block is initialised memory of this size, and this call alone uses it.
                Some(block) => unsafe { std::slice::from_raw_parts_mut(block.data().as_ptr(), block.bytes()) },
                None => empty(),
            };
            op.cpu(&Cpu::new(self.runtime.level(), self.runtime.workers(), workspace));
            return Ok(());
        };
        let (address, bytes) = block.map_or((0, 0), |block| (block.data().as_ptr() as u64, block.bytes()));
        // SAFETY: the workspace belongs to the stream, which orders the operations that use it.
        let gpu = unsafe { native.gpu(address, bytes) };
        native.context().check(op.cuda(&gpu)).map_err(|error| in_front(&format!("{}: ", O::NAME), error))
    }

    /// Work enqueued after this call runs after `event`. On the CPU device this waits for an event of another one.
    pub(crate) fn follow(&self, event: &Event) -> Result<()> {
        match (self.native, event.native()) {
            (Some(stream), Some(event)) => event.hold_back(stream),
            _ => event.wait(),
        }
    }

    /// Copies bytes in stream order, between any memory of host and device.
    ///
    /// # Safety
    /// As [`Stream::copy`].
    pub(crate) unsafe fn copy(&mut self, to: *mut u8, from: *const u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _watched = self.watch("copy", || (bytes as u64, None));
        match self.native {
            // SAFETY: the caller's promise.
            Some(native) => unsafe { native.copy(to, from, bytes) },
            None => {
                /// What a thread copies at a time: fewer bytes are not worth waking another one.
                const PART: usize = 256 << 10;
                let (to, from) = (Address(to), Address(from.cast_mut()));
                let cpu = Cpu::new(self.runtime.level(), self.runtime.workers(), empty());
                cpu.parallel_chunks(bytes, PART, |part, _| {
                    // SAFETY: the caller's promise; the part lies in both.
                    unsafe { to.at(part.start).copy_from_nonoverlapping(from.at(part.start), part.len()) };
                });
                Ok(())
            }
        }
    }

    /// Sets bytes that the device reaches to zero, in stream order.
    ///
    /// # Safety
    /// The address has that many bytes, which nothing else uses until the work is done.
    pub(crate) unsafe fn zero(&mut self, to: *mut u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _watched = self.watch("zero", || (bytes as u64, None));
        match self.native {
            // SAFETY: the caller's promise.
            Some(native) => unsafe { native.zero(to, bytes) },
            // SAFETY: as above.
            None => unsafe {
                to.write_bytes(0, bytes);
                Ok(())
            },
        }
    }

    /// Blocks until everything enqueued so far is done; refused while the stream is captured.
    pub(crate) fn wait(&self) -> Result<()> {
        let Some(native) = self.native else { return Ok(()) };
        native.expect_no_capture("it cannot be waited for before the capture has ended")?;
        native.wait()
    }

    /// Whether what is enqueued now is recorded into a graph, not run.
    pub(crate) fn is_captured(&self) -> Result<bool> {
        Ok(self.native.map_or(Ok(Capture::None), NativeStream::capture)? != Capture::None)
    }

    /// Makes the workspace at least `bytes` large. A failure leaves the one that there is.
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        let workspace = &mut *self.workspace;
        let has = workspace.block.as_ref().map_or(0, |block| block.bytes() as u64);
        if bytes <= has {
            return Ok(());
        }
        if let Some(native) = self.native {
            native.expect_no_capture(&format!(
                "its workspace cannot grow from {has} to {bytes} bytes meanwhile; call scalert_stream_reserve before the \
                 capture"
            ))?;
            if has > 0 {
                native.wait()?;
            }
        }
        let new = |runtime: &Runtime| Block::new(runtime.memory(), Tier::Device, Purpose::Workspace, bytes, true);
        match &mut workspace.block {
            Some(block) if !workspace.captured => block.replace(bytes),
            block => {
                let grown = new(self.runtime)?;
                workspace.retired.extend(block.replace(grown));
                workspace.captured = false;
                Ok(())
            }
        }
    }
}

/// Requires every tensor of an operation to lie where the device reaches it.
fn expect_reachable<O: Op>(native: &NativeStream, op: &O) -> Result<()> {
    let mut outcome = Ok(());
    op.views(&mut |argument, view| {
        if outcome.is_ok() {
            outcome = native.context().expect_reachable(argument, view);
        }
    });
    outcome
}

/// Bytes of the tensors of an operation, each counted once for each argument.
fn bytes_of<O: Op>(op: &O) -> u64 {
    let mut bytes = 0u64;
    op.views(&mut |_, view| {
        bytes = bytes.saturating_add((view.numel() as u64).saturating_mul(view.dtype().size() as u64));
    });
    bytes
}

fn in_front(place: &str, mut error: Error) -> Error {
    error.message.insert_str(0, place);
    error
}

/// An address that workers share.
#[derive(Clone, Copy)]
struct Address(*mut u8);

// SAFETY: a pointer; each worker uses a part of its own of what lies there.
unsafe impl Sync for Address {}

impl Address {
    /// The address of byte `offset`, which is inside.
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
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
