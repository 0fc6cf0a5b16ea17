//! Points in streams.

use crate::cuda::NativeEvent;
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};

/// A point in a stream. On the CPU device, work is done when its call returns: an event is always complete.
pub struct Event {
    /// None on the CPU device.
    native: Option<NativeEvent>,
    _runtime: Runtime,
}

impl Event {
    /// An event that was never recorded, which counts as complete.
    pub fn new(runtime: &Runtime) -> Result<Event> {
        Ok(Event { native: runtime.cuda().map(NativeEvent::new).transpose()?, _runtime: runtime.clone() })
    }

    /// Completes when everything enqueued on `stream` so far is done.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.record_in(&stream.begin()?)
    }

    /// [`Event::record`] by a call that has taken the stream.
    pub(crate) fn record_in(&self, queue: &Queue<'_>) -> Result<()> {
        match (&self.native, queue.native()) {
            (None, None) => Ok(()),
            (Some(event), Some(stream)) => event.record(stream),
            _ => Err(Error::invalid("event", "must be of a runtime on the device of the stream")),
        }
    }

    /// Whether it has completed or was never recorded. `FAILED_PRECONDITION` when it was last recorded in a capture.
    pub fn query(&self) -> Result<bool> {
        self.native.as_ref().map_or(Ok(true), NativeEvent::query)
    }

    /// Blocks until it completes. `FAILED_PRECONDITION` when it was last recorded in a capture.
    pub fn wait(&self) -> Result<()> {
        self.native.as_ref().map_or(Ok(()), NativeEvent::wait)
    }

    pub(crate) fn native(&self) -> Option<&NativeEvent> {
        self.native.as_ref()
    }
}
