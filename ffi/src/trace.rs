//! Traces.

use crate::argument::{Doomed, In, Live, Optional, OutHandle, OutStruct, Text};
use crate::handle::Kind;
use crate::layout::CStruct;
use scalert_runtime::{Runtime, Stream, Trace, TraceDesc};

c_struct! {
    Desc as "scalert_trace_desc_t" {
        struct_size: usize,
        spans: u32,
        rank: u32,
    }
}

c_struct! {
    Info as "scalert_trace_info_t" {
        struct_size: usize,
        spans: u64,
        dropped: u64,
        capacity: u64,
        host_bytes: u64,
        recording: u8,
    }
}

impl Kind for Trace {
    const MAGIC: u64 = u64::from_le_bytes(*b"rtTRACE.");
    const NAME: &'static str = "trace";
}

export! {
    /// Creates a trace.
    fn scalert_trace_create(runtime: Live<Runtime>, desc: In<Desc>, out: OutHandle<Trace>) {
        out.give(Trace::new(runtime, &TraceDesc { spans: desc.spans, rank: desc.rank })?);
        Ok(())
    }

    /// Drops a trace.
    fn scalert_trace_destroy(trace: Doomed<Trace>) -> (), else (); {
        drop(trace);
        Ok(())
    }

    /// Begins a new recording.
    fn scalert_trace_start(trace: Live<Trace>) {
        trace.start()
    }

    /// Ends the recording.
    fn scalert_trace_stop(trace: Live<Trace>) {
        trace.stop()
    }

    /// What the trace holds.
    fn scalert_trace_describe(trace: Live<Trace>, out: OutStruct<Info>) {
        let info = trace.info();
        out.write(Info {
            spans: info.spans,
            dropped: info.dropped,
            capacity: info.capacity,
            host_bytes: info.bytes,
            recording: info.is_recording as u8,
            ..Info::zeroed()
        });
        Ok(())
    }

    /// Begins a range of the host.
    fn scalert_trace_range_begin(trace: Live<Trace>, stream: Optional<Live<Stream>>, name: Text) {
        trace.begin_range(stream, name)
    }

    /// Ends a range of the host.
    fn scalert_trace_range_end(trace: Live<Trace>, stream: Optional<Live<Stream>>) {
        trace.end_range(stream)
    }

    /// Writes what was recorded to a file.
    fn scalert_trace_write_wait(trace: Live<Trace>, path: Text) {
        trace.write_wait(path)
    }
}
