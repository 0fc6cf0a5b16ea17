//! Points in streams.

use crate::error::Result;
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};

/// A point in a stream. On the CPU device, work is done when its call returns: an event is always complete.
pub struct Event {
    _runtime: Runtime,
}

impl Event {
    /// An event that was never recorded, which counts as complete.
    pub fn new(runtime: &Runtime) -> Result<Event> {
        Ok(Event { _runtime: runtime.clone() })
    }

    /// Completes when everything enqueued on `stream` so far is done.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.record_in(&stream.begin()?);
        Ok(())
    }

    /// [`Event::record`] by a call that has taken the stream.
    pub(crate) fn record_in(&self, _queue: &Queue<'_>) {}

    /// Whether it has completed or was never recorded.
    pub fn query(&self) -> Result<bool> {
        Ok(true)
    }

    /// Blocks until it completes.
    pub fn wait(&self) -> Result<()> {
        Ok(())
    }
}
