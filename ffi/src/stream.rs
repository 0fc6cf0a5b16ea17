//! Streams and events.

use crate::argument::{Doomed, Live, Out, OutHandle, expect_pointer};
use crate::handle::Kind;
use scalert_runtime::{Error, Event, Runtime, Stream};
use std::ffi::c_void;

impl Kind for Stream {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtSTREAM");
    const NAME: &'static str = "stream";
}

impl Kind for Event {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtEVENT.");
    const NAME: &'static str = "event";
}

export! {
    /// Creates a stream of the runtime's device.
    fn scalert_stream_create(runtime: Live<Runtime>, out: OutHandle<Stream>) {
        out.give(Stream::new(runtime)?);
        Ok(())
    }

    /// Wraps the host's native stream.
    fn scalert_stream_wrap(runtime: Live<Runtime>, native: *mut c_void, out: OutHandle<Stream>) {
        out.give(Stream::wrap(runtime, native)?);
        Ok(())
    }

    /// Drops a stream.
    fn scalert_stream_destroy(stream: Doomed<Stream>) -> (), else (); {
        drop(stream);
        Ok(())
    }

    /// Makes the workspace at least `bytes` large.
    fn scalert_stream_reserve(stream: Live<Stream>, bytes: u64) {
        stream.reserve(bytes)
    }

    /// Blocks until everything enqueued so far is done.
    fn scalert_stream_wait(stream: Live<Stream>) {
        stream.wait()
    }

    /// Copies bytes in stream order.
    fn scalert_memory_copy(stream: Live<Stream>, to: *mut c_void, from: *const c_void, bytes: u64) {
        if bytes == 0 {
            return Ok(());
        }
        expect_pointer("to", to.cast::<u8>())?;
        expect_pointer("from", from.cast::<u8>())?;
        let apart = usize::try_from(bytes).ok().filter(|n| to.addr().abs_diff(from.addr()) >= *n);
        let bytes = apart.ok_or_else(|| Error::invalid("to", format_args!("must not overlap from in {bytes} bytes")))?;
        // SAFETY: the header asks the caller for memory of this size that stays until the copy is done.
        unsafe { stream.copy(to.cast(), from.cast(), bytes) }
    }

    /// Makes later work run after an event.
    fn scalert_stream_follow(stream: Live<Stream>, event: Live<Event>) {
        stream.follow(event)
    }

    /// Creates an event.
    fn scalert_event_create(runtime: Live<Runtime>, out: OutHandle<Event>) {
        out.give(Event::new(runtime)?);
        Ok(())
    }

    /// Drops an event.
    fn scalert_event_destroy(event: Doomed<Event>) -> (), else (); {
        drop(event);
        Ok(())
    }

    /// Makes the event complete when everything enqueued so far is done.
    fn scalert_event_record(event: Live<Event>, stream: Live<Stream>) {
        event.record(stream)
    }

    /// Whether the event has completed.
    fn scalert_event_query(event: Live<Event>, complete: Out<u8>) {
        complete.write(event.query()? as u8);
        Ok(())
    }

    /// Blocks until the event completes.
    fn scalert_event_wait(event: Live<Event>) {
        event.wait()
    }
}
