//! `make bench-report`: turns the measured rows of `bench/results/` into the tables of `bench/README.md`, and into one
//! picture per file that shows how near each row is to its ceiling.

use plotters::prelude::*;
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

/// What a file of results holds.
struct Results {
    path: PathBuf,
    /// "device: NVIDIA H200, driver: 580.1" and the like; nothing in files without a header line.
    header: String,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    value: f64,
    unit: String,
    /// Ceiling and fraction; figures of peers have none.
    bound: Option<(f64, f64)>,
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
        let picture = results.path.with_extension("svg");
        if results.rows.iter().any(|row| row.bound.is_some()) {
            draw(&results, &picture).map_err(|error| format!("{}: {error}", picture.display()))?;
        }
        text.push_str(&table(&results));
    }
    let readme = bench.join("README.md");
    let old = fs::read_to_string(&readme).map_err(|error| failed(&readme, error))?;
    let (before, rest) = old.split_once(BEGIN).ok_or_else(|| format!("{}: no '{BEGIN}'", readme.display()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{}: no '{END}'", readme.display()))?;
    fs::write(&readme, format!("{before}{BEGIN}\n{text}{END}{after}")).map_err(|error| failed(&readme, error))
}

fn read(path: PathBuf) -> Result<Results, String> {
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut results = Results { path, header: String::new(), rows: Vec::new() };
    for (number, line) in text.lines().enumerate() {
        let at = |what: &str| format!("{}:{}: {what}", results.path.display(), number + 1);
        let value: Value = serde_json::from_str(line).map_err(|error| at(&error.to_string()))?;
        let object = value.as_object().ok_or_else(|| at("must be an object"))?;
        let figure = |key: &str| object.get(key).and_then(Value::as_f64);
        let word = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        match (word("name"), figure("value")) {
            (Some(name), Some(value)) => results.rows.push(Row {
                name,
                value,
                unit: word("unit").unwrap_or_default(),
                bound: figure("ceiling").zip(figure("fraction")),
            }),
            _ => {
                let fields = object.iter().map(|(key, value)| match value.as_str() {
                    Some(value) => format!("{key}: {value}"),
                    None => format!("{key}: {value}"),
                });
                results.header = fields.collect::<Vec<_>>().join(", ");
            }
        }
    }
    Ok(results)
}

fn table(results: &Results) -> String {
    let name = results.path.file_stem().unwrap_or_default().to_string_lossy();
    let mut text = format!("\n### {name}\n\n");
    if !results.header.is_empty() {
        text.push_str(&format!("{}\n\n", results.header));
    }
    if results.rows.iter().any(|row| row.bound.is_some()) {
        text.push_str(&format!("![fraction of the ceiling](results/{name}.svg)\n\n"));
    }
    text.push_str("| case | figure | unit | ceiling | fraction |\n|---|---:|---|---:|---:|\n");
    for row in &results.rows {
        let (ceiling, fraction) = row.bound.map_or((String::new(), String::new()), |(ceiling, fraction)| {
            (format!("{ceiling:.1}"), format!("{fraction:.2}"))
        });
        text.push_str(&format!("| {} | {:.1} | {} | {ceiling} | {fraction} |\n", row.name, row.value, row.unit));
    }
    text
}

/// One bar per row: its fraction of the ceiling, which the line at 1 stands for.
fn draw(results: &Results, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let rows: Vec<(&str, f64)> =
        results.rows.iter().filter_map(|row| row.bound.map(|(_, fraction)| (row.name.as_str(), fraction))).collect();
    const BAR: u32 = 17;
    let height = 70 + BAR * rows.len() as u32;
    let area = SVGBackend::new(path, (960, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let last = rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("fraction of the ceiling measured in the same run", ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(24)
        .set_label_area_size(LabelAreaPosition::Left, 380)
        .build_cartesian_2d(0.0..1.1f64, last..0.0f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(12).draw()?;
    for (i, (name, fraction)) in rows.iter().enumerate() {
        let (top, bottom) = (i as f64 + 0.1, i as f64 + 0.9);
        let colour = if *fraction >= 0.8 { RGBColor(70, 130, 90) } else { RGBColor(200, 140, 60) };
        chart.draw_series([Rectangle::new([(0.0, top), (fraction.min(1.1), bottom)], colour.filled())])?;
        let y = chart.backend_coord(&(0.0, i as f64 + 0.5)).1;
        let style = ("sans-serif", 12).into_font().color(&BLACK);
        let right = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        ));
        area.draw(&Text::new(format!("{name}  {fraction:.2}"), (382, y), right))?;
    }
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, last)], BLACK)])?;
    area.present()?;
    Ok(())
}
