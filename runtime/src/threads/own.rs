//! The runtime's own pool: started at its first use, and anew in a forked child.

use super::call::Call;
use crate::log::{Log, LogLevel};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A pool of `threads - 1` threads beside the caller.
pub(super) struct Own {
    threads: u32,
    log: Log,
    /// The pool of the process that used it last; null before the first use. A pointer and no lock, since a lock that
    /// another thread held during fork() would stay locked in the child for ever.
    pool: AtomicPtr<Pool>,
}

struct Pool {
    process: u32,
    /// None when the system gave no threads: the caller then does the work alone.
    pool: Option<rayon::ThreadPool>,
    handles: Vec<JoinHandle<()>>,
}

impl Own {
    pub(super) fn new(threads: u32, log: Log) -> Own {
        Own { threads, log, pool: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(super) fn threads(&self) -> u32 {
        self.threads
    }

    pub(super) fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync)) {
        let Some(pool) = self.pool() else {
            (0..n).for_each(body);
            return;
        };
        // SAFETY: `finish` is called below, and nothing before it panics.
        let call = Arc::new(unsafe { Call::new(u32::try_from(n).expect("as many bodies as threads at most"), body) });
        for i in 1..call.bodies() {
            let call = call.clone();
            // A thread that comes too late for its body finds it begun, and leaves.
            pool.spawn(move || {
                call.run(i);
            });
        }
        if let (_, Some(panic)) = call.finish() {
            resume_unwind(panic);
        }
    }

    /// This process's pool.
    fn pool(&self) -> Option<&rayon::ThreadPool> {
        let process = std::process::id();
        let mut known = self.pool.load(Ordering::Acquire);
        loop {
            // SAFETY: pools are made by the exchange below and freed by drop alone, which has `&mut self`.
            match unsafe { known.as_ref() } {
                Some(pool) if pool.process == process => return pool.pool.as_ref(),
                _ => {}
            }
            let started = Box::into_raw(Box::new(Pool::start(self.threads as usize - 1, process, &self.log)));
            match self.pool.compare_exchange(known, started, Ordering::AcqRel, Ordering::Acquire) {
                // A pool of the parent process stays behind: its threads do not exist here and cannot be joined.
                Ok(_) => known = started,
                Err(other) => {
                    // SAFETY: `started` was made above and given to no one.
                    drop(unsafe { Box::from_raw(started) });
                    known = other;
                }
            }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let pool = *self.pool.get_mut();
        // SAFETY: the pointer is null or a pool that `pool` made and that no one else frees.
        if let Some(known) = unsafe { pool.as_ref() }
            && known.process == std::process::id()
        {
            // SAFETY: as above; `&mut self` says that no one uses it.
            drop(unsafe { Box::from_raw(pool) });
        }
    }
}

impl Pool {
    fn start(threads: usize, process: u32, log: &Log) -> Pool {
        let handles = Mutex::new(Vec::with_capacity(threads));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .spawn_handler(|thread| {
                let name = format!("scalert-{}", thread.index() + 1);
                let handle = std::thread::Builder::new().name(name).spawn(|| thread.run())?;
                handles.lock().expect("nothing panics under it").push(handle);
                Ok(())
            })
            .build();
        match &pool {
            Ok(_) => log.write(LogLevel::Debug, || format!("started {threads} threads")),
            Err(e) => log.write(LogLevel::Warn, || format!("running on one thread, the system gave no others: {e}")),
        }
        Pool { process, pool: pool.ok(), handles: handles.into_inner().expect("nothing panics under it") }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.pool.take());
        let this = std::thread::current().id();
        // Threads end before the pool is gone, so that nothing of the library runs after its last handle.
        for handle in self.handles.drain(..).filter(|h| h.thread().id() != this) {
            let _ = handle.join();
        }
    }
}
