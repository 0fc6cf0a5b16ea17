//! The host's allocator, threads and log sink: C callbacks as the runtime's traits.

use crate::argument::enumeration;
use crate::desc;
use scalert_runtime::log::{Log, LogLevel, LogSink};
use scalert_runtime::threads::HostThreads;
use scalert_runtime::{Allocator, Error, Tier};
use std::ffi::{CString, c_char, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

type Alloc = unsafe extern "C" fn(*mut c_void, usize, usize, i32, i32, *mut c_void) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize, i32, i32, *mut c_void);
type Body = unsafe extern "C" fn(*mut c_void, u32);
type ParallelFor = unsafe extern "C" fn(*mut c_void, u32, Body, *mut c_void);
type Write = unsafe extern "C" fn(*mut c_void, i32, *const c_char);

c_struct! {
    AllocatorHook as "scalert_allocator_t" {
        struct_size: usize,
        user: *mut c_void,
        alloc: Option<Alloc>,
        free: Option<Free>,
    }
}

c_struct! {
    ThreadPoolHook as "scalert_thread_pool_t" {
        struct_size: usize,
        user: *mut c_void,
        threads: u32,
        parallel_for: Option<ParallelFor>,
    }
}

c_struct! {
    LogSinkHook as "scalert_log_sink_t" {
        struct_size: usize,
        user: *mut c_void,
        level: i32,
        write: Option<Write>,
    }
}

c_enum! {
    LogLevel as "SCALERT_LOG" {
        SCALERT_LOG_ERROR = 1 => LogLevel::Error,
        SCALERT_LOG_WARN = 2 => LogLevel::Warn,
        SCALERT_LOG_INFO = 3 => LogLevel::Info,
        SCALERT_LOG_DEBUG = 4 => LogLevel::Debug,
    }
}

fn required<F>(hook: &str, field: &str, callback: Option<F>) -> Result<F, Error> {
    callback.ok_or_else(|| Error::invalid(hook, format_args!("{field} must not be NULL")))
}

/// The host's pointer, which it promised may be used from any thread.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: the header says that the callbacks which get this pointer may be called from any thread.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

struct HostAllocator {
    user: User,
    alloc: Alloc,
    free: Free,
}

impl Allocator for HostAllocator {
    fn alloc(&self, bytes: usize, alignment: usize, tier: Tier, ordinal: i32) -> Option<NonNull<u8>> {
        // SAFETY: the host's callback, called as the header says.
        NonNull::new(unsafe { (self.alloc)(self.user.0, bytes, alignment, tier as i32, ordinal, null_mut()) }.cast())
    }

    unsafe fn free(&self, memory: NonNull<u8>, bytes: usize, alignment: usize, tier: Tier, ordinal: i32) {
        let memory = memory.as_ptr().cast();
        // SAFETY: the host's callback gets what `alloc` gave, by the caller's promise.
        unsafe { (self.free)(self.user.0, memory, bytes, alignment, tier as i32, ordinal, null_mut()) }
    }
}

struct HostPool {
    user: User,
    threads: u32,
    parallel_for: ParallelFor,
}

impl HostThreads for HostPool {
    fn threads(&self) -> u32 {
        self.threads
    }

    unsafe fn parallel_for(&self, n: u32, body: Body, context: *mut c_void) {
        // SAFETY: the host's callback, called as the header says; `body` and `context` belong together.
        unsafe { (self.parallel_for)(self.user.0, n, body, context) }
    }
}

struct HostLog {
    user: User,
    write: Write,
}

impl LogSink for HostLog {
    fn write(&self, level: LogLevel, message: &str) {
        let message = CString::new(message.replace('\0', "?")).unwrap_or_default();
        // SAFETY: the host's callback, called as the header says.
        unsafe { (self.write)(self.user.0, level as i32, message.as_ptr()) }
    }
}

/// The allocator of a runtime descriptor.
///
/// # Safety
/// `raw` is NULL or as the header says; its callbacks stay callable while the runtime lives.
pub(crate) unsafe fn allocator(raw: *const AllocatorHook) -> Result<Option<Arc<dyn Allocator>>, Error> {
    if raw.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let hook = unsafe { desc::read("allocator", raw)? };
    Ok(Some(Arc::new(HostAllocator {
        user: User(hook.user),
        alloc: required("allocator", "alloc", hook.alloc)?,
        free: required("allocator", "free", hook.free)?,
    })))
}

/// The thread pool of a runtime descriptor.
///
/// # Safety
/// As [`allocator`].
pub(crate) unsafe fn thread_pool(raw: *const ThreadPoolHook) -> Result<Option<Arc<dyn HostThreads>>, Error> {
    if raw.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let hook = unsafe { desc::read("thread_pool", raw)? };
    Ok(Some(Arc::new(HostPool {
        user: User(hook.user),
        threads: hook.threads,
        parallel_for: required("thread_pool", "parallel_for", hook.parallel_for)?,
    })))
}

/// The log sink of a runtime descriptor.
///
/// # Safety
/// As [`allocator`].
pub(crate) unsafe fn log(raw: *const LogSinkHook) -> Result<Log, Error> {
    if raw.is_null() {
        return Ok(Log::default());
    }
    // SAFETY: the caller's promise.
    let hook = unsafe { desc::read("log", raw)? };
    let level = match hook.level {
        0 => LogLevel::Info,
        level => enumeration("level", level).map_err(|e| Error::invalid("log", e.message))?,
    };
    let write = required("log", "write", hook.write)?;
    Ok(Log::new(level, Arc::new(HostLog { user: User(hook.user), write })))
}
