//! Pictures of results, as SVG files beside them.

mod bars;
mod roofline;

use crate::{Results, split_threads};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Draws what a file of results has pictures of: titles and names of the files written.
pub(crate) fn draw(results: &Results) -> Outcome<Vec<(&'static str, String)>> {
    let mut pictures = Vec::new();
    let mut file = |title: &'static str, suffix: &str| {
        let stem = results.path.file_stem().unwrap_or_default().to_string_lossy();
        let path = results.path.with_file_name(format!("{stem}{suffix}.svg"));
        pictures.push((title, format!("{stem}{suffix}.svg")));
        path
    };
    if results.rows.iter().any(|row| row.bound.is_some()) {
        bars::fractions(&results.rows, &file("fraction of the ceiling", ""))?;
    }
    if results.rows.iter().any(|row| row.intensity.is_some() && row.bound.is_some()) {
        roofline::draw(&results.rows, &file("roofline", "-roofline"))?;
    }
    if !results.comparisons.is_empty() {
        bars::comparisons(&results.comparisons, &file("ours against peers", ""))?;
    }
    Ok(pictures)
}

/// Colour of a number of threads; one thread, or a device, is the darker.
fn colour_of(threads: &str) -> RGBColor {
    match threads {
        "" | "t1" => RGBColor(49, 104, 142),
        _ => RGBColor(126, 184, 218),
    }
}

/// "t2" in words.
fn threads_in_words(threads: &str) -> String {
    match threads.trim_start_matches('t') {
        "" => "device".into(),
        "1" => "1 thread".into(),
        n => format!("{n} threads"),
    }
}

/// The numbers of threads that occur, in order of appearance.
fn threads_of<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        let threads = split_threads(name).1;
        if !found.contains(&threads) {
            found.push(threads);
        }
    }
    found
}

/// Text of a size, anchored at its left, its right or its middle.
fn text(size: u32, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(horizontal, VPos::Center))
}
