//! Times a case and its ceiling in turn, so that both see the same machine.

use crate::ceiling::{Ceiling, Probe};
use crate::device_ceiling::{self, DeviceProbe};
use scalert_runtime::device::DeviceKind;
use scalert_runtime::{DType, Stream};
use std::io::{self, BufRead};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Bytes per second.
    Bytes,
    /// Operations on floats per second.
    Operations,
    /// Time of one unit of work.
    Nanoseconds,
}

impl Unit {
    /// Its name in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "GB/s",
            Unit::Operations => "GFLOP/s",
            Unit::Nanoseconds => "ns",
        }
    }

    fn figure(self, work: f64, seconds: f64) -> f64 {
        match self {
            Unit::Bytes | Unit::Operations => work / seconds / 1e9,
            Unit::Nanoseconds => seconds / work * 1e9,
        }
    }
}

/// One thing to time.
pub(crate) struct Case {
    /// Row name: operation, dtype, shape.
    pub(crate) name: String,
    /// Unit of the figure.
    pub(crate) unit: Unit,
    /// Bytes, operations or calls of one run.
    pub(crate) work: f64,
    /// Bytes that one run must move; 0 where that says nothing.
    pub(crate) bytes: f64,
    /// What bounds it, if anything that can be measured.
    pub(crate) ceiling: Option<Ceiling>,
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
    pub(crate) unit: Unit,
    /// Operations per byte that must be moved, of cases that are bound by arithmetic.
    pub(crate) intensity: Option<f64>,
    /// Median ceiling, same unit, and the median of the fractions of each pair.
    pub(crate) bound: Option<(f64, f64)>,
}

/// One repetition of a case, and of its ceiling right after it.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) value: f64,
    pub(crate) ceiling: Option<f64>,
}

/// Who decides when to measure another pair.
pub(crate) enum Pace {
    /// Nine, or as many as fit in twenty seconds, but at least three.
    Own,
    /// One for each line of standard input, answered by a line on standard output: another program measures in between.
    Asked,
}

impl Pace {
    fn another(&self, pairs: &[Pair], start: Instant) -> bool {
        match self {
            Pace::Own => pairs.len() < 3 || (pairs.len() < PAIRS && start.elapsed() < PATIENCE),
            Pace::Asked => {
                if let Some(pair) = pairs.last() {
                    println!("{}", serde_json::json!({ "value": pair.value, "ceiling": pair.ceiling }));
                } else {
                    println!("ready");
                }
                matches!(io::stdin().lock().read_line(&mut String::new()), Ok(1..))
            }
        }
    }
}

/// Shortest time of one repetition; shorter cases run several times in it.
const REPETITION: Duration = Duration::from_millis(20);
const PAIRS: usize = 9;
const PATIENCE: Duration = Duration::from_secs(20);

/// The ceiling of a case on the device of a stream: work and a run of it.
fn probe(ceiling: &Ceiling, stream: &Arc<Stream>) -> DeviceProbe {
    if stream.runtime().device() == DeviceKind::Cuda {
        return match ceiling {
            Ceiling::Traffic(traffic) => device_ceiling::copy(stream, traffic.bytes()),
            Ceiling::Bf16Dot => device_ceiling::product(stream, DType::BF16),
            Ceiling::Fma => device_ceiling::product(stream, DType::F32),
        };
    }
    let mut probe = Probe::new(ceiling.clone(), stream);
    DeviceProbe { work: probe.work(), run: Box::new(move || probe.run()) }
}

/// Runs case and ceiling in turn and takes medians. None when no pair was asked for.
pub(crate) fn measure(case: &mut Case, stream: &Arc<Stream>, pace: &Pace) -> Option<Row> {
    let mut probe = case.ceiling.as_ref().map(|ceiling| probe(ceiling, stream));
    let case_runs = calibrate(&mut case.run, stream);
    let probe_runs = probe.as_mut().map_or(0, |probe| calibrate(&mut probe.run, stream));
    let (mut pairs, start) = (Vec::new(), Instant::now());
    while pace.another(&pairs, start) {
        let value = case.unit.figure(case.work * case_runs as f64, seconds(&mut case.run, case_runs, stream));
        let ceiling = probe
            .as_mut()
            .map(|probe| case.unit.figure(probe.work * probe_runs as f64, seconds(&mut probe.run, probe_runs, stream)));
        pairs.push(Pair { value, ceiling });
    }
    let threads = stream.runtime().threads();
    let suffix = if stream.runtime().device() == DeviceKind::Cpu { format!(" t{threads}") } else { String::new() };
    let median = |key: &dyn Fn(&Pair) -> Option<f64>| {
        let mut figures: Vec<f64> = pairs.iter().filter_map(key).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    };
    Some(Row {
        name: format!("{}{suffix}", case.name),
        value: median(&|p| Some(p.value))?,
        unit: case.unit,
        intensity: (case.unit == Unit::Operations && case.bytes > 0.0).then(|| case.work / case.bytes),
        bound: median(&|p| p.ceiling).zip(median(&|p| Some(p.value / p.ceiling?))),
    })
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
