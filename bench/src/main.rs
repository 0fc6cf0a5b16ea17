//! `make bench`: times every operation beside its ceiling, on 1 and 2 threads of the CPU or on a CUDA device.
//!
//! `DEVICE=cuda:0` takes a CUDA device.
//! `CASE=regex` runs the cases whose names match; `THREADS=1,2` sets the thread counts; `SIMD=avx2` sets the instruction
//! set (portable, avx2, avx512, avx512bf16); `BENCH_JSON=file` appends one JSON object per row. With `BENCH_ASKED=1` each
//! repetition waits for a line on standard input, so that another program can measure in between.

mod buffer;
mod cases;
mod ceiling;
mod device_ceiling;
mod measure;
mod step;

use cases::Sizes;
use indicatif::{ProgressBar, ProgressStyle};
use measure::{Pace, Row};
use regex::Regex;
use scalert_runtime::device::{self, DeviceKind};
use scalert_runtime::{Runtime, RuntimeDesc, SimdLevel, Stream};
use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let filter = Regex::new(&env::var("CASE").unwrap_or_default()).map_err(|e| format!("CASE: {e}"))?;
    let (kind, ordinal) = parse_device(&env::var("DEVICE").unwrap_or_else(|_| "cpu".into()))?;
    let threads = match kind {
        DeviceKind::Cpu => parse_threads(&env::var("THREADS").unwrap_or_else(|_| "1,2".into()))?,
        DeviceKind::Cuda => vec![1],
    };
    let simd = parse_simd(env::var("SIMD").ok().as_deref())?;
    let pace = if env::var_os("BENCH_ASKED").is_some() { Pace::Asked } else { Pace::Own };
    let mut json = match env::var("BENCH_JSON") {
        Ok(path) => Some(
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| format!("BENCH_JSON {path}: {e}"))?,
        ),
        Err(_) => None,
    };

    let name = match kind {
        DeviceKind::Cpu => format!("CPU ({})", simd.name()),
        DeviceKind::Cuda => device::describe(kind, ordinal).map_err(|e| e.message)?.name,
    };
    match kind {
        DeviceKind::Cpu => println!("{name}, {} threads; figure, ceiling measured beside it, fraction", join(&threads)),
        DeviceKind::Cuda => println!("{name}; figure, ceiling measured beside it, fraction"),
    }
    if let Some(file) = &mut json {
        writeln!(file, "{}", header(&name)).map_err(|e| format!("BENCH_JSON: {e}"))?;
    }
    println!("{:<58} {:>9} {:>9} {:>6}", "case", "figure", "ceiling", "");
    for &threads in &threads {
        let desc = RuntimeDesc { device: kind, ordinal, threads, simd: Some(simd), ..RuntimeDesc::default() };
        let runtime = Runtime::new(&desc).map_err(|e| e.message)?;
        let stream = Arc::new(Stream::new(&runtime).map_err(|e| e.message)?);
        let makers: Vec<_> = cases::all(if kind == DeviceKind::Cpu { &Sizes::CPU } else { &Sizes::CUDA })
            .into_iter()
            .filter(|c| filter.is_match(&c.name))
            .collect();
        if makers.is_empty() {
            return Err(format!("no case matches {filter}"));
        }
        let bar = ProgressBar::new(makers.len() as u64).with_style(
            ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} ({eta} left)").expect("a valid template"),
        );
        for maker in makers {
            bar.set_message(maker.name.clone());
            let mut case = maker.build(&stream);
            let row = measure::measure(&mut case, &stream, &pace);
            drop(case);
            bar.inc(1);
            let Some(row) = row else { continue };
            bar.suspend(|| print_row(&row));
            if let Some(file) = &mut json {
                writeln!(file, "{}", as_json(&row)).map_err(|e| format!("BENCH_JSON: {e}"))?;
            }
        }
        bar.finish_and_clear();
    }
    Ok(())
}

fn print_row(row: &Row) {
    let (ceiling, fraction) = row.bound.map_or((String::new(), String::new()), |(ceiling, fraction)| {
        (format!("{ceiling:.1}"), format!("{fraction:.2}"))
    });
    println!("{:<58} {:>9.1} {ceiling:>9} {fraction:>6}  {}", row.name, row.value, row.unit.name());
}

fn as_json(row: &Row) -> serde_json::Value {
    let mut line = serde_json::json!({ "name": row.name, "value": row.value, "unit": row.unit.name() });
    if let Some((ceiling, fraction)) = row.bound {
        line["ceiling"] = ceiling.into();
        line["fraction"] = fraction.into();
    }
    if let Some(intensity) = row.intensity {
        line["intensity"] = intensity.into();
    }
    line
}

/// What the rows of a file were measured on.
fn header(device: &str) -> serde_json::Value {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| "unknown".into());
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = driver.lines().next().and_then(|line| line.split_whitespace().find(|word| word.contains('.')));
    serde_json::json!({
        "device": device, "driver": driver.unwrap_or("none"), "cublaslt": variable("BENCH_CUBLASLT"),
        "cudnn": variable("BENCH_CUDNN"), "date": variable("BENCH_DATE"), "commit": variable("BENCH_COMMIT"),
    })
}

fn parse_device(text: &str) -> Result<(DeviceKind, i32), String> {
    match (text, text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok())) {
        ("cpu", _) => Ok((DeviceKind::Cpu, 0)),
        (_, Some(ordinal)) => Ok((DeviceKind::Cuda, ordinal)),
        _ => Err(format!("DEVICE is '{text}', must be cpu or cuda:N")),
    }
}

fn parse_threads(text: &str) -> Result<Vec<u32>, String> {
    text.split(',')
        .map(|t| match t.trim().parse() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("THREADS is '{text}', must be counts such as 1,2")),
        })
        .collect()
}

fn parse_simd(name: Option<&str>) -> Result<SimdLevel, String> {
    let Some(name) = name else { return Ok(SimdLevel::detect()) };
    SimdLevel::ALL
        .into_iter()
        .find(|l| l.name() == name && l.is_available())
        .ok_or_else(|| format!("SIMD is '{name}', must be an instruction set of this CPU"))
}

fn join(threads: &[u32]) -> String {
    threads.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ")
}
