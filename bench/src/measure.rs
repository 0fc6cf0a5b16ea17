//! Times a case and its ceiling in turn, so that both see the same machine.

use crate::ceiling::{Ceiling, Probe};
use crate::device_ceiling::{self, DeviceProbe};
use scalert_runtime::device::DeviceKind;
use scalert_runtime::{DType, Stream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One thing to time.
pub(crate) struct Case {
    /// Row name: operation, dtype, shape.
    pub(crate) name: String,
    /// Unit of the figure: "GB/s", "GFLOP/s".
    pub(crate) unit: &'static str,
    /// Units times 1e9 of one run: bytes or operations.
    pub(crate) work: f64,
    /// What bounds it.
    pub(crate) ceiling: Ceiling,
    /// Runs it once.
    pub(crate) run: Box<dyn FnMut()>,
}

/// One row of the table.
pub(crate) struct Row {
    /// Case name, with the number of threads on the CPU.
    pub(crate) name: String,
    /// Median figure.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Median ceiling, same unit.
    pub(crate) ceiling: f64,
    /// Median of the fractions of each pair.
    pub(crate) fraction: f64,
}

/// Shortest time of one repetition; shorter cases run several times in it.
const REPETITION: Duration = Duration::from_millis(20);
const PAIRS: usize = 9;

/// The ceiling of a case on the device of a stream: work and a run of it.
fn probe(ceiling: &Ceiling, stream: &Arc<Stream>) -> DeviceProbe {
    if stream.runtime().device() == DeviceKind::Cuda {
        return match ceiling {
            Ceiling::Traffic(traffic) => device_ceiling::copy(stream, traffic.bytes()),
            Ceiling::Bf16Dot(_) => device_ceiling::product(stream, DType::BF16),
            Ceiling::Fma(_) => device_ceiling::product(stream, DType::F32),
        };
    }
    let mut probe = Probe::new(ceiling.clone(), stream.runtime().threads() as usize);
    DeviceProbe { work: probe.work(), run: Box::new(move || probe.run()) }
}

/// Runs case and ceiling in turn and takes medians.
pub(crate) fn measure(case: &mut Case, stream: &Arc<Stream>) -> Row {
    let mut probe = probe(&case.ceiling, stream);
    let case_runs = calibrate(&mut case.run, stream);
    let probe_runs = calibrate(&mut probe.run, stream);
    let mut pairs: Vec<(f64, f64)> = (0..PAIRS)
        .map(|_| {
            let value = case.work * case_runs as f64 / seconds(&mut case.run, case_runs, stream);
            let ceiling = probe.work * probe_runs as f64 / seconds(&mut probe.run, probe_runs, stream);
            (value, ceiling)
        })
        .collect();
    let threads = stream.runtime().threads();
    let suffix = if stream.runtime().device() == DeviceKind::Cpu { format!(" t{threads}") } else { String::new() };
    let median = |pairs: &mut Vec<(f64, f64)>, key: fn(&(f64, f64)) -> f64| {
        pairs.sort_by(|a, b| key(a).total_cmp(&key(b)));
        key(&pairs[pairs.len() / 2])
    };
    Row {
        name: format!("{}{suffix}", case.name),
        value: median(&mut pairs, |p| p.0) / 1e9,
        unit: case.unit,
        ceiling: median(&mut pairs, |p| p.1) / 1e9,
        fraction: median(&mut pairs, |p| p.0 / p.1),
    }
}

/// Warms up and returns how many runs fill a repetition.
fn calibrate(run: &mut dyn FnMut(), stream: &Stream) -> usize {
    seconds(run, 1, stream);
    let once = seconds(run, 1, stream);
    ((REPETITION.as_secs_f64() / once.max(1e-9)).ceil() as usize).max(1)
}

fn seconds(run: &mut dyn FnMut(), times: usize, stream: &Stream) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        run();
    }
    stream.wait().expect("the work succeeds");
    start.elapsed().as_secs_f64()
}
