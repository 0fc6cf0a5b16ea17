//! Streams: the order of work, and the default streams.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

use super::argument::Out;
use super::context::{CONTEXTS, Context, PRIORITIES};
use super::error::Status;
use super::export::exports;
use super::registry::{Kind, Registry};
use super::work::{HostFunction, Work};
use super::{capture, current};

/// A stream. Work on it is done one piece at a time, in the calling threads.
pub(super) struct Stream {
    /// Its handle; default streams have the same handle in every context.
    pub(super) handle: usize,
    /// Handle of its context.
    pub(super) context: usize,
    /// A number that no other stream has.
    pub(super) id: u64,
    /// Whether it runs without regard to the legacy default stream.
    pub(super) non_blocking: bool,
    owner: Weak<Context>,
    priority: c_int,
    order: Mutex<()>,
}

pub(super) static STREAMS: Registry<Stream> = Registry::new(Kind::Stream);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

const LEGACY: usize = 1;
const PER_THREAD: usize = 2;
const NON_BLOCKING: c_uint = 1;

impl Stream {
    fn new(handle: usize, context: usize, owner: Weak<Context>, non_blocking: bool, priority: c_int) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { handle, context, id, non_blocking, owner, priority, order: Mutex::new(()) }
    }

    /// The legacy default stream of a context.
    pub(super) fn legacy(context: usize, owner: Weak<Context>) -> Self {
        Self::new(LEGACY, context, owner, false, 0)
    }

    /// The default stream of a thread in a context.
    pub(super) fn per_thread(context: usize, owner: Weak<Context>) -> Self {
        Self::new(PER_THREAD, context, owner, false, 0)
    }

    /// Whether it is the legacy default stream.
    pub(super) fn is_legacy(&self) -> bool {
        self.handle == LEGACY
    }

    /// Its context, alive and without a sticky error.
    pub(super) fn owner(&self) -> Result<Arc<Context>, Status> {
        let context = self.owner.upgrade().ok_or(Status::CONTEXT_IS_DESTROYED)?;
        context.check()?;
        Ok(context)
    }

    /// Waits for the work that another thread has under way on it.
    pub(super) fn wait(&self) {
        drop(self.order.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_busy(&self) -> bool {
        matches!(self.order.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Does something in the order of the stream that no graph can hold: capture is invalidated.
    pub(super) fn in_order<T>(&self, action: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
        capture::refuse_on(self)?;
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        action()
    }
}

/// The stream of a handle, with a context current. Where the legacy default stream may not be used, it is refused.
pub(super) fn resolve(handle: usize, context: &Arc<Context>) -> Result<Arc<Stream>, Status> {
    let stream = named(handle, context)?;
    if stream.is_legacy() {
        capture::refuse_legacy(context.handle)?;
    }
    Ok(stream)
}

/// The stream of a handle, usable or not.
pub(super) fn named(handle: usize, context: &Arc<Context>) -> Result<Arc<Stream>, Status> {
    match handle {
        0 | LEGACY => Ok(context.legacy.clone()),
        PER_THREAD => Ok(context.thread_stream()),
        _ => STREAMS.get(handle),
    }
}

/// Does work in the order of a stream, or records it when the stream captures. Faults are left in the context.
pub(super) fn enqueue(stream: &Arc<Stream>, work: Work) -> Result<(), Status> {
    let context = stream.owner()?;
    if let Some(work) = capture::record(stream, work)? {
        let _order = stream.order.lock().unwrap_or_else(PoisonError::into_inner);
        work.run(&context);
    }
    Ok(())
}

fn create(out: Out<usize>, flags: c_uint, priority: c_int) -> Result<(), Status> {
    let context = current::context()?;
    let out = out.required()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let (handle, priority) = (STREAMS.issue(), priority.clamp(PRIORITIES.1, PRIORITIES.0));
    let stream = Stream::new(handle, context.handle, Arc::downgrade(&context), flags == NON_BLOCKING, priority);
    STREAMS.insert(handle, Arc::new(stream));
    out.set(handle)
}

fn current_stream(handle: usize) -> Result<Arc<Stream>, Status> {
    resolve(handle, &current::context()?)
}

exports! {
    /// Creates a stream.
    fn cuStreamCreate(stream: Out<usize>, flags: c_uint) {
        create(stream, flags, 0)
    }

    /// Creates a stream with a priority, which is moved into the range there is.
    fn cuStreamCreateWithPriority(stream: Out<usize>, flags: c_uint, priority: c_int) {
        create(stream, flags, priority)
    }

    /// Destroys a stream; what it captures is invalidated.
    fn cuStreamDestroy_v2(stream: usize) {
        current::context()?;
        let stream = STREAMS.remove(stream)?;
        capture::leave(&stream);
        stream.wait();
        Ok(())
    }

    /// Whether everything on a stream is done.
    fn cuStreamQuery(stream: usize) {
        let stream = current_stream(stream)?;
        capture::refuse_synchronisation(std::slice::from_ref(&stream))?;
        if stream.is_busy() { Err(Status::NOT_READY) } else { stream.owner().map(|_| ()) }
    }

    /// Waits for everything on a stream.
    fn cuStreamSynchronize(stream: usize) {
        let stream = current_stream(stream)?;
        capture::refuse_synchronisation(std::slice::from_ref(&stream))?;
        stream.wait();
        stream.owner().map(|_| ())
    }

    /// Context of a stream.
    fn cuStreamGetCtx(stream: usize, context: Out<usize>) {
        context.set(current_stream(stream)?.context)
    }

    /// Device of a stream.
    fn cuStreamGetDevice(stream: usize, device: Out<c_int>) {
        let stream = current_stream(stream)?;
        device.set(CONTEXTS.get(stream.context)?.device)
    }

    /// Flags of a stream.
    fn cuStreamGetFlags(stream: usize, flags: Out<c_uint>) {
        flags.set(c_uint::from(current_stream(stream)?.non_blocking))
    }

    /// Priority of a stream.
    fn cuStreamGetPriority(stream: usize, priority: Out<c_int>) {
        priority.set(current_stream(stream)?.priority)
    }

    /// Number of a stream, never used twice.
    fn cuStreamGetId(stream: usize, id: Out<u64>) {
        id.set(current_stream(stream)?.id)
    }

    /// Calls a function of the host in the order of a stream, on a thread of the driver.
    fn cuLaunchHostFunc(stream: usize, function: Option<HostFunction>, user: *mut c_void) {
        let stream = current_stream(stream)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        enqueue(&stream, Work::Host { function, user: user as usize })
    }
}
