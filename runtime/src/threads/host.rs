//! The host's threads behind a `parallel_for` callback, which is not trusted.

use crate::device::MAX_THREADS;
use crate::log::{Log, LogLevel};
use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The host's threads.
pub trait HostThreads: Send + Sync {
    /// Most bodies that run at the same time, 1 to [`MAX_THREADS`]. Asked when the runtime is made and then fixed.
    fn threads(&self) -> u32;

    /// Calls `body(context, i)` once for each `i` in `0..n`, and returns when all have returned.
    ///
    /// # Safety
    /// `context` is what `body` needs, valid until this returns.
    unsafe fn parallel_for(&self, n: u32, body: unsafe extern "C" fn(*mut c_void, u32), context: *mut c_void);
}

pub(super) struct Host {
    host: Arc<dyn HostThreads>,
    threads: u32,
    log: Log,
    /// Whether the log has heard of a body left out: once is enough.
    warned: AtomicBool,
}

/// One `parallel_for` in progress.
struct Call<'a> {
    n: u32,
    body: &'a (dyn Fn(usize) + Sync),
    /// One bit per body that someone has begun.
    begun: [AtomicU64; MAX_THREADS as usize / 64],
    finished: AtomicU32,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Call<'_> {
    /// Runs body `i` unless it does not exist or someone has begun it. Panics are kept.
    fn run(&self, i: u32) -> bool {
        if i >= self.n || self.begun[i as usize / 64].fetch_or(1 << (i % 64), Ordering::AcqRel) & 1 << (i % 64) != 0 {
            return false;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.body)(i as usize))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        self.finished.fetch_add(1, Ordering::Release);
        true
    }
}

/// What the host's threads call.
///
/// # Safety
/// `context` is a [`Call`] in progress.
unsafe extern "C" fn trampoline(context: *mut c_void, index: u32) {
    // SAFETY: the caller's promise.
    let call = unsafe { &*context.cast::<Call<'_>>() };
    call.run(index);
}

impl Host {
    pub(super) fn new(host: Arc<dyn HostThreads>, log: Log) -> Host {
        Host { threads: host.threads(), host, log, warned: AtomicBool::new(false) }
    }

    pub(super) fn threads(&self) -> u32 {
        self.threads
    }

    pub(super) fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync)) {
        let n = u32::try_from(n).expect("at most as many bodies as threads");
        assert!(n <= self.threads, "{n} bodies on {} threads", self.threads);
        let call = Call {
            n,
            body,
            begun: std::array::from_fn(|_| AtomicU64::new(0)),
            finished: AtomicU32::new(0),
            panic: Mutex::new(None),
        };
        // SAFETY: the call lives until this function returns, which is after parallel_for has.
        unsafe { self.host.parallel_for(n, trampoline, (&raw const call).cast_mut().cast()) };
        // A host that calls bodies twice or with other numbers was ignored; what it left out is done here.
        let left_out = (0..n).filter(|i| call.run(*i)).count();
        if left_out > 0 && !self.warned.swap(true, Ordering::Relaxed) {
            self.log.write(LogLevel::Warn, || format!("parallel_for of the host left out {left_out} of {n} bodies"));
        }
        // A host that returns too early still runs bodies that use this frame: wait for them.
        while call.finished.load(Ordering::Acquire) < n {
            std::thread::yield_now();
        }
        let panic = call.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
