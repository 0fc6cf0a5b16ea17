//! The roofline (Williams et al. 2009): rates over operations per byte, under what memory and arithmetic allow.

use super::{Outcome, text, threads_in_words, threads_of};
use crate::{Row, split_threads};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use std::path::Path;

const DARK: RGBColor = RGBColor(40, 40, 40);
/// Operations by what their names begin with, each with a mark of its own, and dtypes with their colours.
const OPERATIONS: [&str; 3] = ["gemm", "attention", "linear+cross-entropy"];
const DTYPES: [(&str, RGBColor); 3] =
    [("f32", RGBColor(49, 104, 142)), ("bf16", RGBColor(196, 60, 40)), ("f16", RGBColor(130, 90, 170))];

/// The mark of an operation: a disc, a ring, a larger ring.
fn mark<C>(operation: &str, at: C, colour: RGBColor) -> Circle<C, i32> {
    match operation {
        "gemm" => Circle::new(at, 4, colour.filled()),
        "attention" => Circle::new(at, 5, colour.stroke_width(2)),
        _ => Circle::new(at, 8, colour.stroke_width(2)),
    }
}

/// One panel for each number of threads.
pub(super) fn draw(rows: &[Row], path: &Path) -> Outcome<()> {
    let threads = threads_of(rows.iter().filter(|row| row.intensity.is_some()).map(|row| row.name.as_str()));
    let area = SVGBackend::new(path, (500 * threads.len() as u32, 440)).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, threads) in area.split_evenly((1, threads.len())).iter().zip(threads) {
        let rows: Vec<&Row> = rows.iter().filter(|row| split_threads(&row.name).1 == threads).collect();
        draw_panel(panel, &rows, threads)?;
    }
    area.present()?;
    Ok(())
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn draw_panel(panel: &DrawingArea<SVGBackend<'_>, Shift>, rows: &[&Row], threads: &str) -> Outcome<()> {
    let ceiling = |wanted: &dyn Fn(&Row) -> bool| {
        median(rows.iter().filter(|row| wanted(row)).filter_map(|row| row.bound.map(|(ceiling, _)| ceiling)).collect())
    };
    // Vectors of millions outgrow the caches.
    let bandwidth = ceiling(&|row| row.unit == "GB/s" && split_threads(&row.name).0.ends_with("M"));
    let roofs = [
        ("FMA", ceiling(&|row| row.name.starts_with("gemm f32"))),
        ("bf16 dot product", ceiling(&|row| row.name.starts_with("gemm bf16"))),
    ];
    let mut roofs: Vec<(&str, f64)> = roofs.into_iter().filter_map(|(name, roof)| Some((name, roof?))).collect();
    // Instruction sets without a dot product have one roof.
    roofs.dedup_by(|second, first| (second.1 / first.1 - 1.0).abs() < 0.1);
    let highest = roofs.iter().map(|roof| roof.1).fold(1.0, f64::max) * 2.0;
    let (least, most) = (0.5, 2048.0);

    let mut chart = ChartBuilder::on(panel)
        .caption(threads_in_words(threads), ("sans-serif", 15))
        .margin(10)
        .margin_right(20)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d((least..most).log_scale().base(2.0), (highest / 128.0..highest).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(228, 228, 228))
        .x_desc("operations per byte that must be moved")
        .y_desc("GFLOP/s")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (name, roof) in &roofs {
        let corner = bandwidth.map_or(least, |bandwidth| roof / bandwidth);
        chart.draw_series([PathElement::new([(corner, *roof), (most, *roof)], DARK.stroke_width(2))])?;
        let label = format!("{name} {roof:.0}");
        chart.draw_series([Text::new(label, (most / 1.1, roof * 1.13), text(11, DARK, HPos::Right))])?;
    }
    if let Some((bandwidth, top)) = bandwidth.zip(roofs.iter().map(|roof| roof.1).reduce(f64::max)) {
        let from = (highest / 128.0 / bandwidth).max(least);
        chart.draw_series([PathElement::new(
            [(from, from * bandwidth), (top / bandwidth, top)],
            DARK.stroke_width(2),
        )])?;
        let label = format!("memory {bandwidth:.0} GB/s");
        chart.draw_series([Text::new(label, (from * 1.8, from * 1.3 * bandwidth), text(11, DARK, HPos::Left))])?;
    }
    for operation in OPERATIONS {
        for (dtype, colour) in DTYPES {
            let word = format!(" {dtype} ");
            let points = rows.iter().filter(|row| row.name.starts_with(operation) && row.name.contains(&word));
            let points: Vec<(f64, f64)> = points.filter_map(|row| Some((row.intensity?, row.value))).collect();
            if points.is_empty() {
                continue;
            }
            chart
                .draw_series(points.into_iter().map(|point| mark(operation, point, colour)))?
                .label(format!("{operation} {dtype}"))
                .legend(move |(x, y)| mark(operation, (x + 10, y), colour));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}
