//! The host's threads behind a `parallel_for` callback, which is not trusted.

use super::call::Call;
use crate::log::{Log, LogLevel};
use std::ffi::c_void;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The host's threads.
pub trait HostThreads: Send + Sync {
    /// Most bodies that run at the same time, 1 to [`MAX_THREADS`](crate::device::MAX_THREADS). Asked when the runtime is made and then fixed.
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

/// What the host's threads call.
///
/// # Safety
/// `context` is a [`Call`] in progress.
unsafe extern "C" fn trampoline(context: *mut c_void, index: u32) {
    // SAFETY: the caller's promise.
    let call = unsafe { &*context.cast::<Call>() };
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
        // SAFETY: `finish` is called below, and nothing before it panics.
        let call = unsafe { Call::new(n, body) };
        // SAFETY: the call lives until this function returns, which is after parallel_for has.
        unsafe { self.host.parallel_for(n, trampoline, (&raw const call).cast_mut().cast()) };
        // A host that calls bodies twice or with other numbers was ignored; what it left out is done here. A host that
        // returns too early still runs bodies that use this frame: they are waited for.
        let (left_out, panic) = call.finish();
        if left_out > 0 && !self.warned.swap(true, Ordering::Relaxed) {
            self.log.write(LogLevel::Warn, || format!("parallel_for of the host left out {left_out} of {n} bodies"));
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
