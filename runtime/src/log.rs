//! Messages to the host's sink, one per runtime.

use std::sync::Arc;

/// How grave a message is. The numbers are those of the C header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum LogLevel {
    /// A call failed in a way that its status does not fully tell.
    Error = 1,
    /// Something works, but not as intended.
    Warn = 2,
    /// Milestones: a runtime made, a state sealed, a step skipped.
    Info = 3,
    /// Everything else.
    Debug = 4,
}

/// Where messages go. Called from any thread; must not call the library.
pub trait LogSink: Send + Sync {
    /// Receives one message.
    fn write(&self, level: LogLevel, message: &str);
}

/// A runtime's log: a sink and the least grave level that it receives; silent by default.
#[derive(Clone, Default)]
pub struct Log {
    sink: Option<(LogLevel, Arc<dyn LogSink>)>,
}

impl Log {
    /// Messages up to `level` go to `sink`.
    pub fn new(level: LogLevel, sink: Arc<dyn LogSink>) -> Log {
        Log { sink: Some((level, sink)) }
    }

    /// Writes the message that `message` makes, which is not called when no one listens.
    pub(crate) fn write(&self, level: LogLevel, message: impl FnOnce() -> String) {
        if let Some((most, sink)) = &self.sink
            && level <= *most
        {
            sink.write(level, &message());
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Log").field(&self.sink.as_ref().map(|s| s.0)).finish()
    }
}
