//! What watches operations as they are run or enqueued: observers of a runtime, and the profiler of the process.
//!
//! Without either, an operation pays for two loads.

mod nvtx;

use crate::device::DeviceKind;
use scalert_kernels::ops::Op;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its name, as in messages.
    pub name: &'static str,
    /// Bytes of its tensors, each counted once for each argument.
    pub bytes: u64,
    /// Kind of its device. On the CPU the operation runs between begin and end; on a CUDA device it is enqueued then.
    pub device: DeviceKind,
    /// Tells the streams of a process apart.
    pub stream: usize,
}

/// Watches the operations of a runtime. Called on the thread that calls the library, in pairs that nest; must not call
/// the library.
pub trait Observer: Send + Sync {
    /// An operation begins.
    fn begin(&self, span: &Span);
    /// The operation that began last on this thread has ended, in whatever way.
    fn end(&self, span: &Span);
}

/// What watches the operations of one runtime.
#[derive(Default)]
pub(crate) struct Trace {
    is_watched: AtomicBool,
    observer: RwLock<Option<Arc<dyn Observer>>>,
}

impl Trace {
    /// Replaces the observer. Operations under way end with the one that they began with.
    pub(crate) fn observe(&self, observer: Option<Arc<dyn Observer>>) {
        let mut slot = self.observer.write().unwrap_or_else(PoisonError::into_inner);
        self.is_watched.store(observer.is_some(), Ordering::Release);
        *slot = observer;
    }

    /// Shows an operation to whoever watches, until the result is dropped.
    pub(crate) fn watch<O: Op>(&self, op: &O, device: DeviceKind, stream: usize) -> Option<Watched> {
        let (profiler, is_watched) = (nvtx::profiler(), self.is_watched.load(Ordering::Acquire));
        if profiler.is_none() && !is_watched {
            return None;
        }
        let mut bytes = 0u64;
        op.views(&mut |_, view| {
            bytes = bytes.saturating_add((view.numel() as u64).saturating_mul(view.dtype().size() as u64));
        });
        let span = Span { name: O::NAME, bytes, device, stream };
        let own = self.observer.read().unwrap_or_else(PoisonError::into_inner).clone();
        let watched = Watched { span, own, profiler };
        watched.observers().for_each(|observer| observer.begin(&watched.span));
        Some(watched)
    }
}

/// An operation that is being watched.
pub(crate) struct Watched {
    span: Span,
    own: Option<Arc<dyn Observer>>,
    profiler: Option<&'static dyn Observer>,
}

impl Watched {
    fn observers(&self) -> impl DoubleEndedIterator<Item = &dyn Observer> {
        self.own.as_deref().into_iter().chain(self.profiler)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.observers().rev().for_each(|observer| observer.end(&self.span));
    }
}
