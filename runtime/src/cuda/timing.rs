//! When work ran on a device: events between the work, and what the host's clock said then.

use super::{Capture, Context, Entered, NativeStream};
use crate::error::Result;
use scalert_kernels::backend::cuda::Handle;

impl NativeStream {
    /// Marks this place in the stream by a timing event, made if it is null. Not while the stream is captured: the
    /// event would become a node of the graph. Says whether it is marked. The context is entered.
    pub(crate) fn mark(&self, event: &mut Handle) -> bool {
        if self.capture() != Ok(Capture::None) {
            return false;
        }
        let driver = self.context().driver();
        // SAFETY: writes one handle; event and stream live. What fails here fails the work itself as well, or leaves
        // it without a time.
        unsafe {
            if event.is_null() && driver.event_create(event, 0).is_err() {
                *event = std::ptr::null_mut();
                return false;
            }
            driver.event_record(*event, self.handle()).is_ok()
        }
    }
}

impl Context {
    /// Destroys events that [`NativeStream::mark`] made in the context.
    pub(crate) fn destroy_events(&self, events: impl Iterator<Item = Handle>) {
        let Some(_entered) = self.enter_to_release() else { return };
        for event in events {
            // SAFETY: the caller made it, and uses it no more. A failure means that the context is lost.
            let _ = unsafe { self.driver().event_destroy(event) };
        }
    }
}

/// The host's times of marks, found from the newest to the oldest.
pub(crate) struct Timeline<'a> {
    context: &'a Context,
    /// An event, and when it was, in nanoseconds of the host's clock.
    anchor: (Handle, i64),
    _own: Own<'a>,
    _entered: Entered,
}

/// A stream and events for comparing the clocks of host and device.
struct Own<'a> {
    context: &'a Context,
    stream: Handle,
    events: [Handle; 2],
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.context.destroy_events(self.events.into_iter().filter(|event| !event.is_null()));
        if let Some(_entered) = self.context.enter_to_release()
            && !self.stream.is_null()
        {
            // SAFETY: made by `Timeline::new`, and used no more.
            let _ = unsafe { self.context.driver().stream_destroy(self.stream) };
        }
    }
}

impl<'a> Timeline<'a> {
    /// A timeline that ends now, as `now` says. Blocks for some microseconds.
    pub(crate) fn new(context: &'a Context, now: fn() -> u64) -> Result<Timeline<'a>> {
        const NON_BLOCKING: u32 = 1;
        const TRIES: usize = 8;
        let entered = context.enter()?;
        let driver = context.driver();
        let mut own = Own { context, stream: std::ptr::null_mut(), events: [std::ptr::null_mut(); 2] };
        // SAFETY: each writes one handle.
        context.check(unsafe {
            driver
                .stream_create(&mut own.stream, NON_BLOCKING, 0)
                .and_then(|()| own.events.iter_mut().try_for_each(|event| driver.event_create(event, 0)))
        })?;
        // The shortest of some tries says best when the event was.
        let (mut best, mut shortest) = (0, u64::MAX);
        for _ in 0..TRIES {
            let event = own.events[1];
            let before = now();
            // SAFETY: both live.
            context.check(unsafe {
                driver.event_record(event, own.stream).and_then(|()| driver.event_synchronize(event))
            })?;
            let took = now() - before;
            if took < shortest {
                own.events.swap(0, 1);
                (best, shortest) = (before + took / 2, took);
            }
        }
        Ok(Timeline { context, anchor: (own.events[0], best as i64), _own: own, _entered: entered })
    }

    /// When two marks of a stream were. Waits for the second. Marks that are asked for later are not much newer.
    pub(crate) fn interval(&mut self, [begin, end]: [Handle; 2]) -> Result<[u64; 2]> {
        // Milliseconds are told in 24 bits: from here on they say less than the clock does.
        const FAR: i64 = 1_000_000_000;
        let (anchor, at) = self.anchor;
        // SAFETY: the caller's events live, as do the timeline's own.
        self.context.check(unsafe { self.context.driver().event_synchronize(end) })?;
        let at_end = at - self.nanoseconds(end, anchor)?;
        let at_begin = at_end - self.nanoseconds(begin, end)?;
        if at - at_end > FAR {
            self.anchor = (end, at_end);
        }
        Ok([at_begin, at_end].map(|time| time.max(0) as u64))
    }

    fn nanoseconds(&self, from: Handle, to: Handle) -> Result<i64> {
        let mut milliseconds = 0.0f32;
        // SAFETY: writes one number; both events live.
        self.context.check(unsafe { self.context.driver().event_elapsed(&mut milliseconds, from, to) })?;
        Ok((f64::from(milliseconds) * 1e6) as i64)
    }
}
