//! Traces: when operations ran, on the host and on the device, in a file for Chrome and Perfetto; and NVTX ranges for
//! the profiler that the process runs under.
//!
//! Without a trace that records and without a profiler, an operation pays for two loads.

mod chrome;
mod file;
mod nvtx;
mod range;
mod recorder;
mod watch;

use crate::error::{Error, NativeDomain, Result, Status};
use crate::exclusive::Exclusive;
use crate::runtime::Runtime;
use crate::stream::{Queue, Stream};
use recorder::Recorder;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

pub(crate) use watch::{Span, Watch, Watched};

/// How a trace is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceDesc {
    /// Most spans that are kept, the newest; 0 = 65536; at most [`Trace::MOST_SPANS`].
    pub spans: u32,
    /// Names the process in the file.
    pub rank: u32,
}

/// What a trace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceInfo {
    /// Spans that have ended and are kept.
    pub spans: u64,
    /// Spans of the recording that are not kept any more, or never were.
    pub dropped: u64,
    /// Most spans that are kept.
    pub capacity: u64,
    /// HOST memory that it takes.
    pub bytes: u64,
    /// Whether it records.
    pub is_recording: bool,
}

/// A recording of the operations of one runtime, and of the host's ranges.
///
/// A span is an operation, a copy or a range: its name, bytes, thread and stream, when it began and ended on its
/// thread, and, on a CUDA device, when its work began and ended there, by events of the driver. While a stream is
/// captured, only the host's times are known. Nothing waits while spans are recorded.
pub struct Trace {
    /// Held while a recording begins, ends, or is written.
    control: Exclusive<()>,
    recorder: Arc<Recorder>,
    rank: u32,
    runtime: Runtime,
}

impl Trace {
    /// Most spans of a trace.
    pub const MOST_SPANS: u32 = 1 << 24;

    /// A trace that does not record yet. It takes its memory, of the HOST tier, at once.
    pub fn new(runtime: &Runtime, desc: &TraceDesc) -> Result<Trace> {
        let spans = if desc.spans == 0 { 65536 } else { desc.spans };
        if spans > Trace::MOST_SPANS {
            return Err(Error::invalid("spans", format!("{spans} must be at most {}", Trace::MOST_SPANS)));
        }
        let recorder = Recorder::new(runtime.memory(), runtime.cuda(), spans as usize).map_err(|mut error| {
            error.message.insert_str(0, "spans: ");
            error
        })?;
        let control = Exclusive::new("trace", ());
        Ok(Trace { control, recorder: Arc::new(recorder), rank: desc.rank, runtime: runtime.clone() })
    }

    /// Begins a new recording; what the last one kept is dropped. `FAILED_PRECONDITION` while a trace of the runtime
    /// records.
    pub fn start(&self) -> Result<()> {
        let _control = self.control.take()?;
        self.runtime.watch().start(&self.recorder)
    }

    /// Ends the recording: what begins from now on is not recorded. `FAILED_PRECONDITION` when it does not record.
    pub fn stop(&self) -> Result<()> {
        let _control = self.control.take()?;
        if self.runtime.watch().stop(&self.recorder) {
            return Ok(());
        }
        Err(Error::precondition("the trace is not recording"))
    }

    /// What it holds.
    pub fn info(&self) -> TraceInfo {
        let (spans, dropped) = self.recorder.counts();
        TraceInfo {
            spans,
            dropped,
            capacity: self.recorder.capacity(),
            bytes: self.recorder.bytes(),
            is_recording: self.runtime.watch().is_recording(&self.recorder),
        }
    }

    /// Begins a range of the host on this thread: shown to the profiler, and recorded if the trace records. With a
    /// stream of a CUDA device its times there are recorded too.
    pub fn begin_range(&self, stream: Option<&Stream>, name: &CStr) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("name", "must not be empty"));
        }
        let queue = self.take(stream)?;
        let (number, native) = queue.as_ref().map_or((0, None), |queue| (queue.number(), queue.native()));
        let span = Span { name: name.to_bytes(), bytes: 0, implementation: None, stream: number, is_range: true };
        range::begin(&self.recorder, self.runtime.watch().is_recording(&self.recorder), &span, native)
    }

    /// Ends the range that began last of those of the trace on this thread. With the stream that it began with, its
    /// times there are known.
    pub fn end_range(&self, stream: Option<&Stream>) -> Result<()> {
        let queue = self.take(stream)?;
        let (number, native) = queue.as_ref().map_or((0, None), |queue| (queue.number(), queue.native()));
        range::end(&self.recorder, number, native)
    }

    fn take<'a>(&self, stream: Option<&'a Stream>) -> Result<Option<Queue<'a>>> {
        let Some(stream) = stream else { return Ok(None) };
        if !stream.runtime().is(&self.runtime) {
            return Err(Error::invalid("stream", "must be of the runtime of the trace"));
        }
        stream.begin().map(Some)
    }

    /// Waits for the work of the recording's spans, and writes them to a file, which is whole or not there. When the
    /// device fails, or this process was forked, the file has no times of the device and says so.
    /// `FAILED_PRECONDITION` while the trace records.
    pub fn write_wait(&self, path: &CStr) -> Result<()> {
        let _control = self.control.take()?;
        if self.runtime.watch().is_recording(&self.recorder) {
            return Err(Error::precondition("the trace is recording; it must be stopped first"));
        }
        let mut kept = self.recorder.keep();
        let failure = kept.time().err().map(|error| error.to_string());
        let about = chrome::About {
            rank: self.rank,
            device: self.runtime.device(),
            ordinal: self.runtime.ordinal(),
            origin: self.recorder.origin(),
            dropped: self.recorder.counts().1,
            without_device_times: failure.as_deref(),
        };
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        file::replace(path, |out| chrome::write(out, &about, || kept.records()))
            .map_err(|error| cannot_write(path, &error))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.runtime.watch().stop(&self.recorder);
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    let status = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            Status::OutOfMemory
        }
        Some(libc::EIO) => Status::DeviceError,
        _ => Status::InvalidArgument,
    };
    let message = format!("path: \"{}\" must be a file that can be written: {error}", path.display());
    Error::new(status, message).with_native(NativeDomain::Errno, error.raw_os_error().unwrap_or(0).into())
}
