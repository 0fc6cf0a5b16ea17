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
    let mut file = File { out, about, process: std::process::id() };
    file.write_names(records())?;
    let mut tiers = [false; Tier::ALL.len()];
    records().for_each(|record| tiers.iter_mut().zip(record.used).for_each(|(used, bytes)| *used |= bytes > 0));
    let mut used = None;
    for record in records() {
        if used.replace(record.used) != Some(record.used) {
            file.write_memory(record, tiers)?;
        }
        file.write_record(record)?;
    }
    file.write_end()
}

struct File<'a, W> {
    out: &'a mut W,
    about: &'a About<'a>,
    process: u32,
}

impl<W: Write> File<'_, W> {
    /// Names of the process and of its tracks.
    fn write_names<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> Result<()> {
        let rank = self.about.rank;
        writeln!(self.out, "{{\"traceEvents\":[")?;
        self.write_metadata(None, "process_name", format_args!("\"name\":\"rank {rank}\""))?;
        writeln!(self.out, ",")?;
        self.write_metadata(None, "process_sort_index", format_args!("\"sort_index\":{rank}"))?;
        if self.about.dropped > 0 {
            writeln!(self.out, ",")?;
            let labels = format_args!("\"labels\":\"{} spans dropped\"", self.about.dropped);
            self.write_metadata(None, "process_labels", labels)?;
        }
        let mut tracks = BTreeSet::new();
        for record in records {
            tracks.insert(u64::from(record.thread));
            tracks.extend(record.device.map(|_| STREAM_TRACKS + record.stream));
        }
        for track in tracks {
            let ordinal = self.about.ordinal;
            let name = match track.checked_sub(STREAM_TRACKS) {
                Some(stream) => format!("\"name\":\"cuda:{ordinal} stream {stream}\""),
                None => format!("\"name\":\"host thread {track}\""),
            };
            writeln!(self.out, ",")?;
            self.write_metadata(Some(track), "thread_name", format_args!("{name}"))?;
            writeln!(self.out, ",")?;
            self.write_metadata(Some(track), "thread_sort_index", format_args!("\"sort_index\":{track}"))?;
        }
        Ok(())
    }

    fn write_metadata(&mut self, track: Option<u64>, name: &str, value: std::fmt::Arguments<'_>) -> Result<()> {
        write!(self.out, "{{\"ph\":\"M\",\"pid\":{}", self.process)?;
        if let Some(track) = track {
            write!(self.out, ",\"tid\":{track}")?;
        }
        write!(self.out, ",\"name\":\"{name}\",\"args\":{{{value}}}}}")
    }

    /// Bytes in use of each tier that is used at all, when a span began.
    fn write_memory(&mut self, record: &Record, tiers: [bool; Tier::ALL.len()]) -> Result<()> {
        write!(self.out, ",\n{{\"ph\":\"C\",\"pid\":{},\"name\":\"bytes in use\",\"ts\":", self.process)?;
        write_microseconds(self.out, record.host[0].saturating_sub(self.about.origin))?;
        write!(self.out, ",\"args\":{{")?;
        let used = Tier::ALL.into_iter().zip(record.used).filter(|(tier, _)| tiers[*tier as usize]);
        for (i, (tier, bytes)) in used.enumerate() {
            write!(self.out, "{}\"{tier}\":{bytes}", if i > 0 { "," } else { "" })?;
        }
        write!(self.out, "}}}}")
    }

    /// What a span did on its thread and on the device.
    fn write_record(&mut self, record: &Record) -> Result<()> {
        let (on_host, on_device) = match (record.is_range, self.about.device) {
            (true, _) => ("range", "range"),
            (false, DeviceKind::Cpu) => ("operation", "operation"),
            (false, DeviceKind::Cuda) => ("enqueue", "operation"),
        };
        self.write_span(record, record.thread.into(), on_host, record.host)?;
        record.device.map_or(Ok(()), |times| self.write_span(record, STREAM_TRACKS + record.stream, on_device, times))
    }

    fn write_span(&mut self, record: &Record, track: u64, category: &str, [begin, end]: [u64; 2]) -> Result<()> {
        let duration = end.saturating_sub(begin);
        write!(self.out, ",\n{{\"ph\":\"X\",\"pid\":{},\"tid\":{track},\"ts\":", self.process)?;
        write_microseconds(self.out, begin.saturating_sub(self.about.origin))?;
        write!(self.out, ",\"dur\":")?;
        write_microseconds(self.out, duration)?;
        write!(self.out, ",\"cat\":\"{category}\",\"name\":")?;
        write_text(self.out, record.name())?;
        write!(self.out, ",\"args\":{{\"stream\":{}", record.stream)?;
        if !record.is_range {
            write!(self.out, ",\"bytes\":{}", record.bytes)?;
        }
        if category == "operation" && duration > 0 {
            write!(self.out, ",\"GB/s\":{:.3}", record.bytes as f64 / duration as f64)?;
        }
        if let Some(implementation) = record.implementation {
            write!(self.out, ",\"implementation\":\"{implementation}\"")?;
        }
        write!(self.out, "}}}}")
    }

    fn write_end(&mut self) -> Result<()> {
        let About { origin, dropped, without_device_times, .. } = self.about;
        write!(self.out, "\n],\n\"displayTimeUnit\":\"ns\",\n\"otherData\":{{")?;
        write!(self.out, "\"library\":\"libscaleRT {}\",", env!("CARGO_PKG_VERSION"))?;
        write!(self.out, "\"monotonic_ns_at_0\":{origin},\"dropped\":{dropped}")?;
        if let Some(reason) = without_device_times {
            write!(self.out, ",\"without_device_times\":")?;
            write_text(self.out, reason.as_bytes())?;
        }
        writeln!(self.out, "}}}}")
    }
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
