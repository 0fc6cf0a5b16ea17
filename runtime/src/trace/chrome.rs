//! Spans as a trace of Chrome and Perfetto.
//!
//! Source: "Trace Event Format", the object form: complete events (`X`), which nest on a thread's track, counters (`C`)
//! and names of tracks (`M`). Times are microseconds with three decimals.

use super::recorder::Record;
use crate::device::DeviceKind;
use crate::memory::Tier;
use std::collections::BTreeSet;
use std::io::{Result, Write};

/// What a file says beside the spans.
pub(super) struct About<'a> {
    pub(super) rank: u32,
    pub(super) device: DeviceKind,
    pub(super) ordinal: i32,
    /// The time that the file's times count from.
    pub(super) origin: u64,
    /// Spans that are missing.
    pub(super) dropped: u64,
    /// Why times of the device are missing.
    pub(super) without_device_times: Option<&'a str>,
}

/// Tracks of streams have numbers from here on, which no thread has.
const STREAM_TRACKS: u64 = 1 << 24;

/// Writes the file.
pub(super) fn write<'a, R: Iterator<Item = &'a Record>>(
    out: &mut impl Write,
    about: &About<'_>,
    records: impl Fn() -> R,
) -> Result<()> {
    let process = std::process::id();
    let mut tiers = [false; Tier::ALL.len()];
    let mut tracks = BTreeSet::new();
    for record in records() {
        tracks.insert((u64::from(record.thread), format!("host thread {}", record.thread)));
        if record.device.is_some() {
            let name = format!("cuda:{} stream {}", about.ordinal, record.stream);
            tracks.insert((STREAM_TRACKS + record.stream, name));
        }
        tiers.iter_mut().zip(record.used).for_each(|(is_used, bytes)| *is_used |= bytes > 0);
    }
    let rank = about.rank;
    write!(out, r#"{{"traceEvents":[{}"#, "\n")?;
    write!(out, r#"{{"ph":"M","pid":{process},"name":"process_name","args":{{"name":"rank {rank}"}}}}"#)?;
    write!(
        out,
        ",\n{{\"ph\":\"M\",\"pid\":{process},\"name\":\"process_sort_index\",\"args\":{{\"sort_index\":{rank}}}}}"
    )?;
    if about.dropped > 0 {
        let dropped = about.dropped;
        write!(
            out,
            ",\n{{\"ph\":\"M\",\"pid\":{process},\"name\":\"process_labels\",\
             \"args\":{{\"labels\":\"{dropped} spans dropped\"}}}}"
        )?;
    }
    for (order, (track, name)) in tracks.iter().enumerate() {
        write!(
            out,
            ",\n{{\"ph\":\"M\",\"pid\":{process},\"tid\":{track},\"name\":\"thread_name\",\
             \"args\":{{\"name\":\"{name}\"}}}},\n{{\"ph\":\"M\",\"pid\":{process},\"tid\":{track},\
             \"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{order}}}}}"
        )?;
    }
    let mut used = None;
    for record in records() {
        if used != Some(record.used) {
            used = Some(record.used);
            write_memory(out, about, process, record, tiers)?;
        }
        let on_cpu = about.device == DeviceKind::Cpu;
        let category = match record.is_range {
            true => "range",
            false if on_cpu => "operation",
            false => "enqueue",
        };
        write_span(out, about, process, record, (record.thread.into(), category, record.host, on_cpu))?;
        if let Some(times) = record.device {
            let category = if record.is_range { "range" } else { "operation" };
            write_span(out, about, process, record, (STREAM_TRACKS + record.stream, category, times, true))?;
        }
    }
    write!(out, "\n],\n\"displayTimeUnit\":\"ns\",\n\"otherData\":{{")?;
    write!(out, "\"library\":\"libscaleRT {}\",\"monotonic_ns_at_0\":{}", env!("CARGO_PKG_VERSION"), about.origin)?;
    write!(out, ",\"dropped\":{}", about.dropped)?;
    if let Some(reason) = about.without_device_times {
        write!(out, ",\"without_device_times\":")?;
        write_text(out, reason.as_bytes())?;
    }
    writeln!(out, "}}}}")
}

fn write_span(
    out: &mut impl Write,
    about: &About<'_>,
    process: u32,
    record: &Record,
    (track, category, [begin, end], computes): (u64, &str, [u64; 2], bool),
) -> Result<()> {
    let duration = end.saturating_sub(begin);
    write!(out, ",\n{{\"ph\":\"X\",\"pid\":{process},\"tid\":{track},\"ts\":")?;
    write_microseconds(out, begin.saturating_sub(about.origin))?;
    write!(out, ",\"dur\":")?;
    write_microseconds(out, duration)?;
    write!(out, ",\"cat\":\"{category}\",\"name\":")?;
    write_text(out, record.name())?;
    write!(out, ",\"args\":{{\"stream\":{}", record.stream)?;
    if !record.is_range {
        write!(out, ",\"bytes\":{}", record.bytes)?;
        if computes && duration > 0 {
            write!(out, ",\"GB/s\":{:.3}", record.bytes as f64 / duration as f64)?;
        }
    }
    if let Some(implementation) = record.implementation {
        write!(out, ",\"implementation\":")?;
        write_text(out, implementation.as_bytes())?;
    }
    write!(out, "}}}}")
}

/// Bytes in use of each tier that is used at all.
fn write_memory(
    out: &mut impl Write,
    about: &About<'_>,
    process: u32,
    record: &Record,
    tiers: [bool; Tier::ALL.len()],
) -> Result<()> {
    write!(out, ",\n{{\"ph\":\"C\",\"pid\":{process},\"name\":\"bytes in use\",\"ts\":")?;
    write_microseconds(out, record.host[0].saturating_sub(about.origin))?;
    write!(out, ",\"args\":{{")?;
    let used = Tier::ALL.into_iter().zip(record.used).filter(|(tier, _)| tiers[*tier as usize]);
    for (i, (tier, bytes)) in used.enumerate() {
        write!(out, "{}\"{tier}\":{bytes}", if i > 0 { "," } else { "" })?;
    }
    write!(out, "}}}}")
}

fn write_microseconds(out: &mut impl Write, nanoseconds: u64) -> Result<()> {
    write!(out, "{}.{:03}", nanoseconds / 1000, nanoseconds % 1000)
}

/// A string of JSON: what is no UTF-8 becomes replacement characters.
fn write_text(out: &mut impl Write, text: &[u8]) -> Result<()> {
    write!(out, "\"")?;
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '"' | '\\' => write!(out, "\\{character}")?,
            character if character < ' ' => write!(out, "\\u{:04x}", u32::from(character))?,
            character => write!(out, "{character}")?,
        }
    }
    write!(out, "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_string_of_json() {
        let json = |text: &[u8]| {
            let mut out = Vec::new();
            write_text(&mut out, text).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json(b"step 1"), r#""step 1""#);
        assert_eq!(json(b"a\"b\\c\n\x01\x7f"), "\"a\\\"b\\\\c\\u000a\\u0001\u{7f}\"");
        assert_eq!(json("µs \u{1f600}".as_bytes()), "\"µs \u{1f600}\"");
        assert_eq!(json(b"\xff\xc3"), "\"\u{fffd}\u{fffd}\"");
    }

    #[test]
    fn microseconds_keep_every_nanosecond() {
        for (nanoseconds, text) in
            [(0, "0.000"), (7, "0.007"), (1_234_567, "1234.567"), (u64::MAX, "18446744073709551.615")]
        {
            let mut out = Vec::new();
            write_microseconds(&mut out, nanoseconds).unwrap();
            assert_eq!(out, text.as_bytes());
        }
    }
}
