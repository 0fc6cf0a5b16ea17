//! Ranges of the host that are open on a thread.

use super::nvtx;
use super::recorder::{Recorder, Token};
use super::watch::Span;
use crate::cuda::NativeStream;
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::sync::{Arc, Weak};

/// Most ranges that are open on a thread.
const MOST: usize = 64;

struct Open {
    recorder: Weak<Recorder>,
    /// None: it is not recorded.
    token: Option<Token>,
}

thread_local!(static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) });

fn with<R>(body: impl FnOnce(&mut Vec<Open>) -> Result<R>) -> Result<R> {
    OPEN.try_with(|open| body(&mut open.borrow_mut()))
        .unwrap_or_else(|_| Err(Error::precondition("the thread is ending: it has no ranges any more")))
}

/// Begins a range on this thread, shown to the profiler and, if `records`, to the recorder.
pub(super) fn begin(
    recorder: &Arc<Recorder>,
    records: bool,
    span: &Span<'_>,
    native: Option<&NativeStream>,
) -> Result<()> {
    with(|open| {
        // Those of traces that are gone cannot end any more.
        open.retain(|range| range.recorder.strong_count() > 0);
        if open.len() == MOST {
            return Err(Error::precondition(format!(
                "{MOST} ranges are open on this thread, the most that there may be"
            )));
        }
        if let Some(profiler) = nvtx::profiler() {
            profiler.begin(span);
        }
        let token = if records { recorder.begin(span, native) } else { None };
        open.push(Open { recorder: Arc::downgrade(recorder), token });
        Ok(())
    })
}

/// Ends the range that began last of those of the recorder on this thread.
pub(super) fn end(recorder: &Arc<Recorder>, stream: u64, native: Option<&NativeStream>) -> Result<()> {
    with(|open| {
        let is_of_recorder = |range: &Open| std::ptr::eq(range.recorder.as_ptr(), Arc::as_ptr(recorder));
        let Some(last) = open.iter().rposition(is_of_recorder) else {
            return Err(Error::precondition("no range of the trace is open on this thread"));
        };
        if let Some(token) = open.remove(last).token {
            let is_same = recorder.stream_of(&token) == stream;
            recorder.end(token, native.filter(|_| is_same));
        }
        if let Some(profiler) = nvtx::profiler() {
            profiler.end();
        }
        Ok(())
    })
}
