//! What a runtime's operations are shown to: the trace that records, and the profiler of the process.

use super::nvtx;
use super::recorder::{Recorder, Token};
use crate::cuda::NativeStream;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A piece of work, or a range of the host around several.
pub(crate) struct Span<'a> {
    /// Its name, as in messages or as the host says.
    pub(crate) name: &'a [u8],
    /// Bytes of its tensors, each counted once for each argument.
    pub(crate) bytes: u64,
    /// What runs, where an operation has a choice.
    pub(crate) implementation: Option<&'static str>,
    /// [`Watch::number_stream`]; 0 = none.
    pub(crate) stream: u64,
    /// Whether it is a range of the host.
    pub(crate) is_range: bool,
}

/// Who watches the operations of one runtime.
#[derive(Default)]
pub(crate) struct Watch {
    is_recording: AtomicBool,
    recorder: RwLock<Option<Arc<Recorder>>>,
    streams: AtomicU64,
}

impl Watch {
    /// A number for a new stream of the runtime: 1, 2, ...
    pub(crate) fn number_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Has `recorder` record the work that begins from now on, in a new recording.
    pub(super) fn start(&self, recorder: &Arc<Recorder>) -> Result<()> {
        let mut slot = self.recorder.write().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(other) if Arc::ptr_eq(other, recorder) => Err(Error::precondition("the trace is recording already")),
            Some(_) => Err(Error::precondition("another trace of the runtime is recording; it must be stopped first")),
            None => {
                recorder.reset();
                *slot = Some(Arc::clone(recorder));
                self.is_recording.store(true, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Ends the recording of `recorder`, and says whether it was under way. Work under way is recorded when it ends.
    pub(super) fn stop(&self, recorder: &Arc<Recorder>) -> bool {
        let mut slot = self.recorder.write().unwrap_or_else(PoisonError::into_inner);
        let is_recording = slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, recorder));
        if is_recording {
            self.is_recording.store(false, Ordering::Release);
            *slot = None;
        }
        is_recording
    }

    /// Whether `recorder` records.
    pub(super) fn is_recording(&self, recorder: &Arc<Recorder>) -> bool {
        self.recorder().is_some_and(|current| Arc::ptr_eq(&current, recorder))
    }

    fn recorder(&self) -> Option<Arc<Recorder>> {
        if !self.is_recording.load(Ordering::Acquire) {
            return None;
        }
        self.recorder.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows work, which `describe` describes, to whoever watches, until the result is dropped.
    pub(crate) fn watch<'a>(
        &self,
        native: Option<&'a NativeStream>,
        describe: impl FnOnce() -> Span<'static>,
    ) -> Option<Watched<'a>> {
        let (profiler, recorder) = (nvtx::profiler(), self.recorder());
        if profiler.is_none() && recorder.is_none() {
            return None;
        }
        let span = describe();
        if let Some(profiler) = profiler {
            profiler.begin(&span);
        }
        let recorder = recorder.and_then(|recorder| recorder.begin(&span, native).map(|token| (recorder, token)));
        Some(Watched { profiler, recorder, native })
    }
}

/// Work that is being watched.
pub(crate) struct Watched<'a> {
    profiler: Option<&'static nvtx::Profiler>,
    recorder: Option<(Arc<Recorder>, Token)>,
    native: Option<&'a NativeStream>,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some((recorder, token)) = self.recorder.take() {
            recorder.end(token, self.native);
        }
        if let Some(profiler) = self.profiler {
            profiler.end();
        }
    }
}
