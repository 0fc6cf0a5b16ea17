//! A trace sees each operation once, with its tensors' bytes, and its end however it ends; keeps the newest; and writes
//! what others read.

mod harness;

use harness::{Probe, Tensor, runtime};
use scalert_runtime::ops::add::Add;
use scalert_runtime::ops::fill::Fill;
use scalert_runtime::{
    Arena, DType, NativeDomain, Runtime, RuntimeDesc, Status, Stream, Tier, Trace, TraceDesc, TraceInfo,
};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::path::PathBuf;

fn trace(runtime: &Runtime, spans: u32) -> Trace {
    Trace::new(runtime, &TraceDesc { spans, rank: 3 }).unwrap()
}

/// A path for one test.
fn path(name: &str) -> (PathBuf, CString) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("trace-{name}.json"));
    let _ = std::fs::remove_file(&path);
    (path.clone(), CString::new(path.to_str().unwrap()).unwrap())
}

/// One event: the values of its members by their names, those of args with them.
type Event = HashMap<String, String>;

/// The events of a file, which has one on each line.
fn events(name: &str, trace: &Trace) -> Vec<Event> {
    let (path, c_path) = path(name);
    trace.write_wait(&c_path).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let member = |part: &str| -> Option<(String, String)> {
        let (name, value) = part.rsplit_once("\":")?;
        Some((name.rsplit('"').next()?.to_string(), value.trim_matches(['"', '{', '}']).to_string()))
    };
    let lines = text.lines().filter(|line| line.starts_with("{\"ph\""));
    lines.map(|line| line.trim_end_matches(',').split(',').filter_map(member).collect()).collect()
}

fn spans(name: &str, trace: &Trace) -> Vec<Event> {
    events(name, trace).into_iter().filter(|event| event["ph"] == "X").collect()
}

fn names(spans: &[Event]) -> Vec<&str> {
    spans.iter().map(|span| span["name"].as_str()).collect()
}

fn time(span: &Event) -> (f64, f64) {
    let begin: f64 = span["ts"].parse().unwrap();
    (begin, begin + span["dur"].parse::<f64>().unwrap())
}

#[test]
fn each_operation_is_recorded_from_begin_to_end() {
    let runtime = runtime(1);
    let (first, second) = (Stream::new(&runtime).unwrap(), Stream::new(&runtime).unwrap());
    let (a, b) = (Tensor::new(DType::F32, &[4, 3]), Tensor::new(DType::F32, &[4, 3]));
    let y = Tensor::new(DType::F32, &[4, 3]);
    let fill = Fill { value: 1.0, y: y.view() };
    let trace = trace(&runtime, 0);
    first.submit(&fill).unwrap();
    assert_eq!(trace.info().spans, 0);
    trace.start().unwrap();
    first.submit(&fill).unwrap();
    second.submit(&Add { a: a.view(), b: b.view(), y: y.view() }).unwrap();
    // SAFETY: both tensors have these bytes.
    unsafe { first.copy(b.view().data(), a.view().data(), 48) }.unwrap();
    // What is refused never begins, and what fails ends.
    let wrong = Tensor::new(DType::I32, &[4]);
    first.submit(&Fill { value: 1.0, y: wrong.view() }).unwrap_err();
    let broken = Probe::new(0, |_| panic!("on purpose"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| first.submit(&broken))).unwrap_err();
    trace.stop().unwrap();
    second.submit(&fill).unwrap();

    let expected = TraceInfo { spans: 4, dropped: 0, capacity: 65536, is_recording: false, ..trace.info() };
    assert_eq!(trace.info(), expected);
    let spans = spans("operations", &trace);
    assert_eq!(names(&spans), ["fill", "add", "copy", "probe"]);
    let bytes: Vec<&str> = spans.iter().map(|span| span["bytes"].as_str()).collect();
    assert_eq!(bytes, ["48", "144", "48", "0"]);
    assert!(spans.iter().all(|span| span["cat"] == "operation" && span["tid"] == spans[0]["tid"]));
    assert_eq!(spans[0]["stream"], spans[2]["stream"]);
    assert_ne!(spans[0]["stream"], spans[1]["stream"]);
    for pair in spans.windows(2) {
        assert!(time(&pair[0]).1 <= time(&pair[1]).0, "one after another: {pair:?}");
    }
    let rate: f64 = spans[1]["GB/s"].parse().unwrap();
    let (begin, end) = time(&spans[1]);
    assert!((rate - 0.144 / (end - begin)).abs() < 1e-3, "{rate} in {} us", end - begin);
}

#[test]
fn ranges_hold_what_ran_in_them_on_their_thread() {
    let runtime = runtime(1);
    let stream = Stream::new(&runtime).unwrap();
    let trace = trace(&runtime, 0);
    let y = Tensor::new(DType::F32, &[4]);
    let fill = Fill { value: 1.0, y: y.view() };
    trace.begin_range(None, c"before").unwrap();
    trace.start().unwrap();
    trace.begin_range(None, c"step \"1\"").unwrap();
    trace.begin_range(Some(&stream), c"forward").unwrap();
    stream.submit(&fill).unwrap();
    trace.end_range(Some(&stream)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(trace.end_range(None).unwrap_err().status, Status::FailedPrecondition);
            trace.begin_range(None, c"elsewhere").unwrap();
            trace.end_range(None).unwrap();
        });
    });
    trace.end_range(None).unwrap();
    trace.end_range(None).unwrap();
    let error = trace.end_range(None).unwrap_err();
    assert_eq!(error.message, "no range of the trace is open on this thread");
    let long = CString::new("µ".repeat(100)).unwrap();
    trace.begin_range(None, &long).unwrap();
    trace.end_range(None).unwrap();
    trace.begin_range(None, c"never ends").unwrap();
    trace.stop().unwrap();
    let spans = spans("ranges", &trace);
    assert_eq!(names(&spans), ["step \\\"1\\", "forward", "fill", "elsewhere", &"µ".repeat(31)]);
    let (step, forward, operation) = (time(&spans[0]), time(&spans[1]), time(&spans[2]));
    assert!(step.0 <= forward.0 && forward.0 <= operation.0 && operation.1 <= forward.1 && forward.1 <= step.1);
    assert_ne!(spans[3]["tid"], spans[0]["tid"]);
    assert_eq!(trace.begin_range(None, c"").unwrap_err().message, "name: must not be empty");

    // The range that never ended is of this thread; those of traces that are gone do not count.
    let other = Trace::new(&runtime, &TraceDesc { spans: 1, rank: 0 }).unwrap();
    (0..63).for_each(|_| other.begin_range(None, c"open").unwrap());
    assert_eq!(other.begin_range(None, c"open").unwrap_err().status, Status::FailedPrecondition);
    drop(trace);
    other.begin_range(None, c"open").unwrap();
    let foreign = Stream::new(&harness::runtime(1)).unwrap();
    let error = other.begin_range(Some(&foreign), c"foreign").unwrap_err();
    assert_eq!(error.message, "stream: must be of the runtime of the trace");
}

#[test]
fn the_newest_spans_are_kept_and_ranges_around_them() {
    let runtime = runtime(1);
    let stream = Stream::new(&runtime).unwrap();
    let y = Tensor::new(DType::F32, &[4]);
    let trace = trace(&runtime, 10);
    trace.start().unwrap();
    trace.begin_range(None, c"all").unwrap();
    for value in 0..25 {
        stream.submit(&Fill { value: value as f32, y: y.view() }).unwrap();
    }
    // The range holds its slot, so that there is room for nine others.
    assert_eq!((trace.info().spans, trace.info().dropped), (9, 16));
    trace.end_range(None).unwrap();
    trace.stop().unwrap();
    assert_eq!((trace.info().spans, trace.info().dropped), (10, 16));
    let kept = events("newest", &trace);
    let labels: Vec<&str> = kept.iter().filter_map(|event| event.get("labels").map(String::as_str)).collect();
    assert_eq!(labels, ["16 spans dropped"]);
    let spans = spans("newest", &trace);
    assert_eq!(names(&spans)[..2], ["all", "fill"]);
    assert_eq!(spans.len(), 10);

    // A new recording forgets the last one; with no slot left, spans are dropped.
    trace.start().unwrap();
    assert_eq!((trace.info().spans, trace.info().dropped), (0, 0));
    (0..10).for_each(|_| trace.begin_range(None, c"open").unwrap());
    stream.submit(&Fill { value: 0.0, y: y.view() }).unwrap();
    assert_eq!((trace.info().spans, trace.info().dropped), (0, 1));
    trace.stop().unwrap();
    (0..10).for_each(|_| trace.end_range(None).unwrap());
    assert_eq!((trace.info().spans, trace.info().dropped), (10, 1));
}

#[test]
fn memory_is_of_the_ledger_and_told_over_time() {
    let desc = RuntimeDesc { threads: 1, budgets: [0, 0, 100_000, 0], ..Default::default() };
    let runtime = Runtime::new(&desc).unwrap();
    let stream = Stream::new(&runtime).unwrap();
    let error = Trace::new(&runtime, &TraceDesc::default()).err().unwrap();
    assert_eq!(error.status, Status::OutOfBudget);
    assert!(error.message.starts_with("spans: needs "), "{error}");
    let error = Trace::new(&runtime, &TraceDesc { spans: u32::MAX, rank: 0 }).err().unwrap();
    assert_eq!(error.message, "spans: 4294967295 must be at most 16777216");

    let trace = trace(&runtime, 100);
    let held = trace.info().bytes;
    assert_eq!(runtime.memory_report().tier[Tier::Host as usize].other, held);
    let y = Tensor::new(DType::F32, &[4]);
    let fill = Fill { value: 1.0, y: y.view() };
    trace.start().unwrap();
    stream.submit(&fill).unwrap();
    let arena = Arena::new(&runtime, Tier::Host, 1000).unwrap();
    stream.submit(&fill).unwrap();
    stream.submit(&fill).unwrap();
    drop(arena);
    stream.submit(&fill).unwrap();
    trace.stop().unwrap();
    let counters: Vec<Event> = events("memory", &trace).into_iter().filter(|event| event["ph"] == "C").collect();
    let used: Vec<u64> = counters.iter().map(|event| event["HOST"].parse().unwrap()).collect();
    assert_eq!(used, [held, held + 1000, held]);
    assert!(counters.iter().all(|event| !event.contains_key("DEVICE")));
    drop(trace);
    assert_eq!(runtime.memory_report().tier[Tier::Host as usize].used, 0);
}

#[test]
fn one_trace_of_a_runtime_records_at_a_time() {
    let runtime = runtime(1);
    let stream = Stream::new(&runtime).unwrap();
    let y = Tensor::new(DType::F32, &[4]);
    let fill = Fill { value: 1.0, y: y.view() };
    let (one, two) = (trace(&runtime, 10), trace(&runtime, 10));
    let refused = |outcome: scalert_runtime::Result<()>, message: &str| {
        let error = outcome.unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (Status::FailedPrecondition, message));
    };
    refused(one.stop(), "the trace is not recording");
    one.start().unwrap();
    refused(one.start(), "the trace is recording already");
    refused(two.start(), "another trace of the runtime is recording; it must be stopped first");
    refused(two.stop(), "the trace is not recording");
    let (_, c_path) = path("refused");
    refused(one.write_wait(&c_path), "the trace is recording; it must be stopped first");
    stream.submit(&fill).unwrap();
    assert_eq!((one.info().spans, two.info().spans), (1, 0));
    assert_eq!((one.info().is_recording, two.info().is_recording), (true, false));
    // A trace that goes away records no more.
    drop(one);
    two.start().unwrap();
    stream.submit(&fill).unwrap();
    assert_eq!(two.info().spans, 1);
    drop((runtime, stream));
    two.stop().unwrap();
    assert_eq!(names(&spans("two", &two)), ["fill"]);
}

#[test]
fn a_file_that_cannot_be_written_is_said_with_its_errno() {
    let trace = trace(&runtime(1), 10);
    let fails = |path: &CStr, errno: i32| {
        let error = trace.write_wait(path).unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument);
        assert_eq!(error.native, Some((NativeDomain::Errno, errno.into())));
        assert!(error.message.starts_with("path: \""), "{error}");
    };
    fails(c"", libc::ENOENT);
    fails(c"/nowhere/trace.json", libc::ENOENT);
    fails(c"/", libc::EISDIR);
    fails(c"/dev/null", libc::EINVAL);
    // No spans are a trace as well.
    assert_eq!(spans("nothing", &trace).len(), 0);
}

#[test]
fn threads_record_into_one_ring() {
    let runtime = runtime(1);
    let trace = trace(&runtime, 64);
    trace.start().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let stream = Stream::new(&runtime).unwrap();
                let y = Tensor::new(DType::F32, &[4]);
                for _ in 0..2000 {
                    trace.begin_range(None, c"range").unwrap();
                    stream.submit(&Fill { value: 1.0, y: y.view() }).unwrap();
                    trace.end_range(None).unwrap();
                }
            });
        }
    });
    trace.stop().unwrap();
    let info = trace.info();
    assert_eq!(info.spans + info.dropped, 4 * 2000 * 2);
    let spans = spans("threads", &trace);
    assert_eq!(spans.len() as u64, info.spans);
    for thread in spans.iter().map(|span| &span["tid"]) {
        let mut open: Vec<(f64, f64)> = Vec::new();
        for (begin, end) in spans.iter().filter(|span| &span["tid"] == thread).map(time) {
            open.retain(|outer| outer.1 > begin);
            assert!(open.iter().all(|outer| end <= outer.1), "spans of a thread nest");
            open.push((begin, end));
        }
    }
}
