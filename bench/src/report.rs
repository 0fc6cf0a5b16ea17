//! `make bench-report`: turns the measured rows of `bench/results/` into the tables of `bench/README.md`, and into pictures:
//! how near each row is to its ceiling, the roofline, and how a comparison with peers came out.

mod picture;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const BEGIN: &str = "<!-- results: written by make bench-report -->";
const END: &str = "<!-- end of results -->";

fn main() -> ExitCode {
    match run(Path::new("bench")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench-report: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What a file of results holds: figures beside their ceilings, or figures beside those of peers.
struct Results {
    path: PathBuf,
    /// "device: NVIDIA H200, driver: 580.1" and the like; nothing in files without a header line.
    header: String,
    rows: Vec<Row>,
    comparisons: Vec<Comparison>,
}

struct Row {
    name: String,
    value: f64,
    unit: String,
    /// Ceiling and fraction; what nothing bounds has none.
    bound: Option<(f64, f64)>,
    /// Operations per byte, of what arithmetic bounds.
    intensity: Option<f64>,
}

/// Ours against a peer's, as rates.
struct Comparison {
    name: String,
    peer: String,
    way: String,
    unit: String,
    ours: f64,
    theirs: f64,
    /// Median and quartiles of ours / theirs.
    ratio: f64,
    quartiles: (f64, f64),
    /// The ratio to reach, where that is not 1.
    target: Option<f64>,
    /// Peak resident bytes of both, of whole programs.
    memory: Option<(f64, f64)>,
}

/// A case without its number of threads, and that number: "add bf16 t2" is ("add bf16", "t2").
fn split_threads(name: &str) -> (&str, &str) {
    match name.rsplit_once(' ') {
        Some((case, threads)) if threads.strip_prefix('t').is_some_and(|n| n.parse::<u32>().is_ok()) => (case, threads),
        _ => (name, ""),
    }
}

fn run(bench: &Path) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let folder = bench.join("results");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| failed(&folder, error))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    paths.sort();
    let mut text = String::new();
    for path in paths.into_iter().rev() {
        let results = read(path)?;
        let pictures = picture::draw(&results).map_err(|error| format!("{}: {error}", results.path.display()))?;
        text.push_str(&section(&results, &pictures));
    }
    let readme = bench.join("README.md");
    let old = fs::read_to_string(&readme).map_err(|error| failed(&readme, error))?;
    let (before, rest) = old.split_once(BEGIN).ok_or_else(|| format!("{}: no '{BEGIN}'", readme.display()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{}: no '{END}'", readme.display()))?;
    fs::write(&readme, format!("{before}{BEGIN}\n{text}{END}{after}")).map_err(|error| failed(&readme, error))
}

fn read(path: PathBuf) -> Result<Results, String> {
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut results = Results { path, header: String::new(), rows: Vec::new(), comparisons: Vec::new() };
    for (number, line) in text.lines().enumerate() {
        let at = |what: &str| format!("{}:{}: {what}", results.path.display(), number + 1);
        let value: Value = serde_json::from_str(line).map_err(|error| at(&error.to_string()))?;
        let object = value.as_object().ok_or_else(|| at("must be an object"))?;
        let figure = |key: &str| object.get(key).and_then(Value::as_f64);
        let word = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
        if let Some(value) = figure("value") {
            results.rows.push(Row {
                name: word("name"),
                value,
                unit: word("unit"),
                bound: figure("ceiling").zip(figure("fraction")),
                intensity: figure("intensity"),
            });
        } else if let Some(ratio) = figure("ratio") {
            let need = |key: &str| figure(key).ok_or_else(|| at(&format!("a comparison needs '{key}'")));
            results.comparisons.push(Comparison {
                name: word("name"),
                peer: word("peer"),
                way: word("way"),
                unit: word("unit"),
                ours: need("ours")?,
                theirs: need("theirs")?,
                ratio,
                quartiles: (need("low")?, need("high")?),
                target: figure("target").filter(|target| *target != 1.0),
                memory: figure("rss_ours").zip(figure("rss_theirs")),
            });
        } else {
            let fields = object.iter().map(|(key, value)| match value.as_str() {
                Some(value) => format!("{key}: {value}"),
                None => format!("{key}: {value}"),
            });
            results.header = fields.collect::<Vec<_>>().join(", ");
        }
    }
    Ok(results)
}

/// The section of a file: its pictures by title and file name, and its tables.
fn section(results: &Results, pictures: &[(&str, String)]) -> String {
    let name = results.path.file_stem().unwrap_or_default().to_string_lossy();
    let mut text = format!("\n### {name}\n\n");
    if !results.header.is_empty() {
        text.push_str(&format!("{}\n\n", results.header));
    }
    for (title, file) in pictures {
        text.push_str(&format!("![{title}](results/{file})\n\n"));
    }
    if !results.rows.is_empty() {
        text.push_str("| case | figure | unit | ceiling | fraction |\n|---|---:|---|---:|---:|\n");
    }
    for row in &results.rows {
        let (ceiling, fraction) = row.bound.map_or((String::new(), String::new()), |(ceiling, fraction)| {
            (format!("{ceiling:.1}"), format!("{fraction:.2}"))
        });
        text.push_str(&format!("| {} | {:.1} | {} | {ceiling} | {fraction} |\n", row.name, row.value, row.unit));
    }
    if !results.comparisons.is_empty() {
        text.push_str(
            "| case | ours | theirs | unit | ours / theirs | quartiles | peer |\n|---|---:|---:|---|---:|---:|---|\n",
        );
    }
    for row in &results.comparisons {
        let memory = row.memory.map_or(String::new(), |(ours, theirs)| {
            format!("; {:.0} MiB against {:.0} MiB", ours / 1048576.0, theirs / 1048576.0)
        });
        text.push_str(&format!(
            "| {} | {:.1} | {:.1} | {} | {:.2} | {:.2} to {:.2} | {}, {}{memory} |\n",
            row.name, row.ours, row.theirs, row.unit, row.ratio, row.quartiles.0, row.quartiles.1, row.peer, row.way
        ));
    }
    text
}
