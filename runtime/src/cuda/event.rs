//! Events of the driver.

use super::failure::code;
use super::{Capture, Context, NativeStream};
use crate::error::{Error, Result};
use scalert_kernels::backend::cuda::Handle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An event of a context.
pub(crate) struct NativeEvent {
    context: Arc<Context>,
    handle: Handle,
    /// The capture that it was last recorded in, by its number; 0 = none; [`NativeEvent::NEVER`] = never recorded.
    capture: AtomicU64,
}

// SAFETY: the driver's events may be used from any thread.
unsafe impl Send for NativeEvent {}
// SAFETY: as above.
unsafe impl Sync for NativeEvent {}

impl NativeEvent {
    const NEVER: u64 = u64::MAX;

    /// An event that was never recorded.
    pub(crate) fn new(context: &Arc<Context>) -> Result<NativeEvent> {
        const DISABLE_TIMING: u32 = 2;
        let _entered = context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        context.check(unsafe { context.driver().event_create(&mut handle, DISABLE_TIMING) })?;
        Ok(NativeEvent { context: Arc::clone(context), handle, capture: AtomicU64::new(Self::NEVER) })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Completes when everything enqueued on `stream` so far is done. The context of the stream is entered.
    pub(crate) fn record(&self, stream: &NativeStream) -> Result<()> {
        if !self.context.is(stream.context()) {
            return Err(Error::invalid("event", "must be of a runtime in the same CUDA context as the stream"));
        }
        let capture = match stream.capture()? {
            Capture::Active(id) => id,
            Capture::None | Capture::Invalidated => 0,
        };
        // SAFETY: both live.
        self.context.check(unsafe { self.context.driver().event_record(self.handle, stream.handle()) })?;
        self.capture.store(capture, Ordering::Release);
        Ok(())
    }

    /// Refuses an event that marks a place in a graph, which never completes.
    fn expect_recorded_outside(&self) -> Result<()> {
        match self.capture.load(Ordering::Acquire) {
            0 | Self::NEVER => Ok(()),
            _ => Err(Error::precondition(
                "the event was last recorded while its stream was captured into a graph: it marks a place in that graph \
                 and never completes",
            )),
        }
    }

    /// Whether it has completed or was never recorded.
    pub(crate) fn query(&self) -> Result<bool> {
        let _entered = self.context.enter()?;
        self.expect_recorded_outside()?;
        // SAFETY: the event lives.
        match unsafe { self.context.driver().event_query(self.handle) } {
            Err(error) if error.code == code::NOT_READY => Ok(false),
            outcome => self.context.check(outcome).map(|()| true),
        }
    }

    /// Blocks until it completes.
    pub(crate) fn wait(&self) -> Result<()> {
        let _entered = self.context.enter()?;
        self.expect_recorded_outside()?;
        // SAFETY: the event lives.
        self.context.check(unsafe { self.context.driver().event_synchronize(self.handle) })
    }

    /// Later work of `stream` runs after it. The stream's context is entered.
    pub(crate) fn hold_back(&self, stream: &NativeStream) -> Result<()> {
        let recorded = self.capture.load(Ordering::Acquire);
        match stream.capture()? {
            _ if recorded == Self::NEVER => Ok(()),
            Capture::Active(_) if recorded == 0 => Err(Error::precondition(
                "the stream is being captured into a graph: it cannot follow an event that was recorded outside of it",
            )),
            Capture::Active(id) if recorded != id => Err(Error::precondition(
                "the stream is being captured into a graph: it cannot follow an event of another capture",
            )),
            _ => stream.follow(self),
        }
    }
}

impl Drop for NativeEvent {
    fn drop(&mut self) {
        if let Some(_entered) = self.context.enter_to_release() {
            // SAFETY: made by `new`. A failure means that the context is lost, and the event with it.
            let _ = unsafe { self.context.driver().event_destroy(self.handle) };
        }
    }
}
