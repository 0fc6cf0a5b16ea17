//! Contexts: the primary one of each device and those that a program creates.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::argument::{In, Out};
use super::error::Status;
use super::export::exports;
use super::limit::Limits;
use super::registry::{Kind, Registry};
use super::stream::{self, Stream};
use super::{capture, current, device, event, memory, module};
use crate::Memory;

/// A context. A primary context that is reset and retained again is a new object under the same handle.
pub(super) struct Context {
    /// Its handle.
    pub(super) handle: usize,
    /// Its number, never used twice.
    id: u64,
    /// Ordinal of its device.
    pub(super) device: c_int,
    /// What its kernels may access.
    pub(super) memory: Memory,
    /// The legacy default stream.
    pub(super) legacy: Arc<Stream>,
    per_thread: Mutex<HashMap<ThreadId, Arc<Stream>>>,
    /// Limits that its kernels run under, by number.
    pub(super) limits: Limits,
    flags: AtomicU32,
    alive: AtomicBool,
    sticky: AtomicI32,
}

/// The primary context of a device.
#[derive(Default)]
pub(super) struct Primary {
    handle: usize,
    retained: usize,
    flags: u32,
}

pub(super) static CONTEXTS: Registry<Context> = Registry::new(Kind::Context);

/// Scheduling (3 bits), mapping of host memory, and keeping local memory at its size.
const FLAGS: u32 = 0x1f;
/// Flags that newer versions know: core dumps, and copies that synchronise.
const NEWER_FLAGS: u32 = 0xe0;
const API_VERSION: c_uint = 3020;
/// The numerically greatest priority is the least urgent.
pub(super) const PRIORITIES: (c_int, c_int) = (0, -5);

impl Context {
    fn create(handle: usize, device: c_int, flags: u32) -> Arc<Self> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let context = Arc::new_cyclic(|weak| Self {
            handle,
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            device,
            memory: Memory::new(),
            legacy: Arc::new(Stream::legacy(handle, weak.clone())),
            per_thread: Mutex::new(HashMap::new()),
            limits: Limits::default(),
            flags: AtomicU32::new(flags),
            alive: AtomicBool::new(true),
            sticky: AtomicI32::new(0),
        });
        CONTEXTS.insert(handle, context.clone());
        memory::show_host_memory(&context);
        context
    }

    /// The error that the context returns for ever, or that it has been destroyed.
    pub(super) fn check(&self) -> Result<(), Status> {
        if !self.alive.load(Ordering::Acquire) {
            return Err(Status::CONTEXT_IS_DESTROYED);
        }
        match self.sticky.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Status(code)),
        }
    }

    /// Leaves an error behind that every later call returns; the first one stays.
    pub(super) fn poison(&self, status: Status) {
        let _ = self.sticky.compare_exchange(0, status.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The default stream of the calling thread.
    pub(super) fn thread_stream(self: &Arc<Self>) -> Arc<Stream> {
        let mut streams = self.per_thread.lock().unwrap_or_else(PoisonError::into_inner);
        let create = || Arc::new(Stream::per_thread(self.handle, Arc::downgrade(self)));
        streams.entry(std::thread::current().id()).or_insert_with(create).clone()
    }

    /// Every stream of the context.
    pub(super) fn streams(&self) -> Vec<Arc<Stream>> {
        let mut list = stream::STREAMS.all();
        list.retain(|stream| stream.context == self.handle);
        list.push(self.legacy.clone());
        list.extend(self.per_thread.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        list
    }

    /// Waits for everything that other threads have under way, then takes the context and what it owns away.
    fn destroy(&self) {
        self.alive.store(false, Ordering::Release);
        let streams = self.streams();
        capture::abandon(&streams);
        streams.iter().for_each(|stream| stream.wait());
        let _ = CONTEXTS.remove(self.handle);
        stream::STREAMS.remove_where(|stream| stream.context == self.handle);
        event::EVENTS.remove_where(|event| event.context == self.handle);
        module::unload_all(self.handle);
        memory::free_all(self);
    }
}

/// Poisons the context that is current, if there is one.
pub(super) fn poison_current(status: Status) {
    if let Some(context) = current::top().and_then(|handle| CONTEXTS.find(handle)) {
        context.poison(status);
    }
}

/// The context of a handle that a program passes: one that was destroyed is told from what never was one.
pub(super) fn named(handle: usize) -> Result<Arc<Context>, Status> {
    let gone = if CONTEXTS.was_issued(handle) { Status::CONTEXT_IS_DESTROYED } else { Status::INVALID_CONTEXT };
    CONTEXTS.find(handle).ok_or(gone)
}

fn primary(ordinal: c_int) -> Result<MutexGuard<'static, Primary>, Status> {
    Ok(device::get(ordinal)?.primary.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Scheduling is one of four kinds, the rest are bits.
fn check_flags(flags: u32, known: u32) -> Result<(), Status> {
    let scheduling = matches!(flags & 7, 0 | 1 | 2 | 4);
    if flags & !known == 0 && scheduling { Ok(()) } else { Err(Status::INVALID_VALUE) }
}

fn create(out: Out<usize>, flags: u32, ordinal: c_int) -> Result<(), Status> {
    let out = out.required()?;
    device::get(ordinal)?;
    check_flags(flags, FLAGS | NEWER_FLAGS)?;
    let context = Context::create(CONTEXTS.issue(), ordinal, flags);
    current::push(context.handle);
    out.set(context.handle)
}

exports! {
    /// Retains the primary context of a device; the first retain makes it.
    fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: c_int) {
        let context = context.required()?;
        let mut primary = primary(device)?;
        if primary.handle == 0 {
            primary.handle = CONTEXTS.issue();
        }
        if CONTEXTS.find(primary.handle).is_none() {
            Context::create(primary.handle, device, primary.flags);
        }
        primary.retained += 1;
        context.set(primary.handle)
    }

    /// Releases the primary context of a device; the last release destroys it.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        let mut primary = primary(device)?;
        if primary.retained == 0 {
            return Err(Status::INVALID_CONTEXT);
        }
        primary.retained -= 1;
        if primary.retained == 0
            && let Some(context) = CONTEXTS.find(primary.handle)
        {
            context.destroy();
        }
        Ok(())
    }

    /// Destroys the primary context of a device whoever retains it; the next retain makes it afresh.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        let primary = primary(device)?;
        if let Some(context) = CONTEXTS.find(primary.handle) {
            context.destroy();
        }
        Ok(())
    }

    /// Flags of the primary context of a device, and whether it exists.
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) {
        let primary = primary(device)?;
        let (flags, active) = (flags.required()?, active.required()?);
        flags.set(primary.flags)?;
        active.set(c_int::from(CONTEXTS.find(primary.handle).is_some()))
    }

    /// Sets the flags of the primary context of a device.
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) {
        let mut primary = primary(device)?;
        check_flags(flags, FLAGS | NEWER_FLAGS)?;
        primary.flags = flags;
        if let Some(context) = CONTEXTS.find(primary.handle) {
            context.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Creates a context and makes it current.
    fn cuCtxCreate_v2(context: Out<usize>, flags: c_uint, device: c_int) {
        create(context, flags, device)
    }

    /// Creates a context and makes it current; parameters other than none are not supported.
    fn cuCtxCreate_v4(context: Out<usize>, parameters: In<[usize; 3]>, flags: c_uint, device: c_int) {
        // Affinities of execution, their number, and what to share with graphics.
        if !parameters.is_null() && parameters.at(0)? != [0; 3] {
            return Err(Status::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    /// Destroys a context that a program created.
    fn cuCtxDestroy_v2(context: usize) {
        let list = device::all()?;
        let is_primary = |device: &device::Device| {
            device.primary.lock().unwrap_or_else(PoisonError::into_inner).handle == context
        };
        if list.iter().any(is_primary) {
            return Err(Status::INVALID_CONTEXT);
        }
        named(context)?.destroy();
        if current::top() == Some(context) {
            current::pop();
        }
        Ok(())
    }

    /// Version of the API that a context was made for.
    fn cuCtxGetApiVersion(context: usize, version: Out<c_uint>) {
        device::all()?;
        let handle = if context == 0 { current::top().ok_or(Status::INVALID_CONTEXT)? } else { context };
        named(handle)?;
        version.set(API_VERSION)
    }

    /// Number of a context, never used twice.
    fn cuCtxGetId(context: usize, id: Out<u64>) {
        device::all()?;
        let handle = if context == 0 { current::top().ok_or(Status::INVALID_CONTEXT)? } else { context };
        id.set(named(handle)?.id)
    }

    /// Flags of the current context.
    fn cuCtxGetFlags(flags: Out<c_uint>) {
        flags.set(current::context()?.flags.load(Ordering::Relaxed))
    }

    /// Least and greatest priority of streams.
    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        current::context()?;
        least.set_if_wanted(PRIORITIES.0);
        greatest.set_if_wanted(PRIORITIES.1);
        Ok(())
    }
}
