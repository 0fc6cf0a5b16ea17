//! Points in streams.

use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};
use scalert_kernels::backend::cuda::Handle;

/// A point in a stream. On the CPU device, work is done when its call returns: an event is always complete.
pub struct Event {
    /// The driver's event; null on the CPU.
    native: Handle,
    runtime: Runtime,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that was never recorded, which counts as complete.
    pub fn new(runtime: &Runtime) -> Result<Event> {
        const DISABLE_TIMING: u32 = 2;
        let mut native = std::ptr::null_mut();
        if let Some(cuda) = runtime.cuda() {
            let _current = cuda.enter()?;
            // SAFETY: writes one handle; destroyed on drop.
            unsafe { cuda.driver().event_create(&mut native, DISABLE_TIMING) }?;
        }
        Ok(Event { native, runtime: runtime.clone() })
    }

    /// Completes when everything enqueued on `stream` so far is done. Both belong to one runtime.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        if !stream.runtime().is(&self.runtime) {
            return Err(Error::invalid("stream", "must belong to the runtime of the event"));
        }
        self.record_in(&stream.begin()?)
    }

    /// [`Event::record`] by a call that has taken the stream.
    pub(crate) fn record_in(&self, queue: &Queue<'_>) -> Result<()> {
        let Some(cuda) = queue.cuda() else { return Ok(()) };
        // SAFETY: an event and a stream of the current context.
        Ok(unsafe { cuda.context.driver().event_record(self.native, cuda.stream) }?)
    }

    /// Later work of the queue waits for the event. On the CPU an event of any runtime is complete.
    pub(crate) fn precede(&self, queue: &Queue<'_>) -> Result<()> {
        let Some(cuda) = queue.cuda() else { return self.wait() };
        if self.native.is_null() {
            return Ok(());
        }
        // SAFETY: a live event, and a stream of the current context.
        Ok(unsafe { cuda.context.driver().stream_wait_event(cuda.stream, self.native, 0) }?)
    }

    /// Whether it has completed or was never recorded.
    pub fn query(&self) -> Result<bool> {
        const NOT_READY: i64 = 600;
        let Some(cuda) = self.runtime.cuda() else { return Ok(true) };
        let _current = cuda.enter()?;
        // SAFETY: a live event.
        match unsafe { cuda.driver().event_query(self.native) } {
            Ok(()) => Ok(true),
            Err(error) if error.code == NOT_READY => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Blocks until it completes.
    pub fn wait(&self) -> Result<()> {
        let Some(cuda) = self.runtime.cuda() else { return Ok(()) };
        let _current = cuda.enter()?;
        // SAFETY: a live event.
        Ok(unsafe { cuda.driver().event_synchronize(self.native) }?)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let Some(cuda) = self.runtime.cuda() else { return };
        if let Ok(_current) = cuda.enter() {
            // SAFETY: created with this, and used no more.
            let _ = unsafe { cuda.driver().event_destroy(self.native) };
        }
    }
}
