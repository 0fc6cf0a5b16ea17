//! One `parallel_for` in progress, whose bodies are run by whoever comes first.

use crate::device::MAX_THREADS;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

type Panic = Box<dyn Any + Send>;

/// Bodies `0..n`, each of which is run once.
pub(super) struct Call {
    n: u32,
    /// Of a lifetime that ends after [`Call::finish`] has returned; not used after that.
    body: *const (dyn Fn(usize) + Sync),
    /// One bit per body that someone has begun.
    begun: [AtomicU64; MAX_THREADS as usize / 64],
    finished: AtomicU32,
    panic: Mutex<Option<Panic>>,
}

// SAFETY: the body is `Sync`, and `new`'s caller keeps it alive for as long as it is used.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

/// Turns that a thread waits for another before it gives up its processor: some tens of microseconds, as long as a task.
const SPINS: u32 = 2000;

impl Call {
    /// # Safety
    /// `finish` is called, and returns, before `body` is no more.
    pub(super) unsafe fn new(n: u32, body: &(dyn Fn(usize) + Sync)) -> Call {
        let body = std::ptr::from_ref(body);
        // SAFETY: the same pointer with another lifetime, within which it is used: the caller's promise.
        let body = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync)>(body) };
        let begun = std::array::from_fn(|_| AtomicU64::new(0));
        Call { n, body, begun, finished: AtomicU32::new(0), panic: Mutex::new(None) }
    }

    /// n.
    pub(super) fn bodies(&self) -> u32 {
        self.n
    }

    /// Runs body `i` unless it does not exist or someone has begun it. Panics are kept.
    pub(super) fn run(&self, i: u32) -> bool {
        if i >= self.n || self.begun[i as usize / 64].fetch_or(1 << (i % 64), Ordering::AcqRel) & 1 << (i % 64) != 0 {
            return false;
        }
        // SAFETY: `finish` has not returned: it waits for this body, which no one had begun.
        let body = unsafe { &*self.body };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(i as usize))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        self.finished.fetch_add(1, Ordering::Release);
        true
    }

    /// Runs the bodies that no one has begun and waits for the others: how many it ran, and the first panic.
    pub(super) fn finish(&self) -> (usize, Option<Panic>) {
        let ran = (0..self.n).filter(|i| self.run(*i)).count();
        let mut turns = 0;
        while self.finished.load(Ordering::Acquire) < self.n {
            if turns < SPINS {
                std::hint::spin_loop();
                turns += 1;
            } else {
                std::thread::yield_now();
            }
        }
        (ran, self.panic.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}
