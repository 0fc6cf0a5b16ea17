//! Bars, one for each row, those of one case together: fractions of ceilings, and ratios to peers.

use super::{Outcome, colour_of, text, threads_in_words, threads_of};
use crate::{Comparison, Row, split_threads};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use std::path::Path;

/// One bar.
struct Bar {
    length: f64,
    threads: String,
    /// Where the middle half of the measurements lies.
    quartiles: Option<(f64, f64)>,
    target: Option<f64>,
    label: String,
}

/// A case and its bars.
type Group = (String, Vec<Bar>);

const BAR: i32 = 9;
const GAP: i32 = 6;
const LEFT: i32 = 400;
const RIGHT: i32 = 60;
const TOP: i32 = 58;
const BOTTOM: i32 = 12;
const WIDTH: i32 = 1000;
const DARK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(222, 222, 222);
const MARK: RGBColor = RGBColor(196, 60, 40);

fn group_into(groups: &mut Vec<Group>, case: &str, bar: Bar) {
    match groups.iter_mut().find(|(name, _)| name == case) {
        Some((_, bars)) => bars.push(bar),
        None => groups.push((case.to_owned(), vec![bar])),
    }
}

/// How near each row comes to its ceiling.
pub(super) fn fractions(rows: &[Row], path: &Path) -> Outcome<()> {
    let mut groups = Vec::new();
    for row in rows {
        let Some((_, fraction)) = row.bound else { continue };
        let (case, threads) = split_threads(&row.name);
        let label = format!("{fraction:.2}");
        let bar = Bar { length: fraction, threads: threads.to_owned(), quartiles: None, target: None, label };
        group_into(&mut groups, case, bar);
    }
    let ticks: Vec<(f64, String)> = (0..=5).map(|i| f64::from(i) / 5.0).map(|x| (x, format!("{x:.1}"))).collect();
    let place = |x: f64| x.min(1.2) / 1.2;
    draw("fraction of the ceiling measured in the same run", &groups, &ticks, &place, path)
}

/// Ours against peers: ratios of rates, on a logarithmic axis.
pub(super) fn comparisons(rows: &[Comparison], path: &Path) -> Outcome<()> {
    let mut groups = Vec::new();
    for row in rows {
        let (case, threads) = split_threads(&row.name);
        let bar = Bar {
            length: row.ratio,
            threads: threads.to_owned(),
            quartiles: Some(row.quartiles),
            target: row.target,
            label: format!("{:.2}", row.ratio),
        };
        group_into(&mut groups, &format!("{case} / {}", row.peer), bar);
    }
    let most = rows.iter().map(|row| row.ratio.max(row.quartiles.1)).fold(2.0, f64::max).log2().ceil();
    let least = rows.iter().map(|row| row.ratio.min(row.quartiles.0)).fold(0.5, f64::min).log2().floor();
    let ticks: Vec<(f64, String)> =
        (least as i32..=most as i32).map(|i| 2f64.powi(i)).map(|x| (x, format!("{x}"))).collect();
    let place = |x: f64| ((x.log2() - least) / (most - least)).clamp(0.0, 1.0);
    draw("rate of ours / rate of the peer, medians of pairs; 1 = as fast, red = target", &groups, &ticks, &place, path)
}

/// Bars from the tick 1 where the axis has lower ones that are not 0, else from its start.
fn draw(
    title: &str,
    groups: &[Group],
    ticks: &[(f64, String)],
    place: &dyn Fn(f64) -> f64,
    path: &Path,
) -> Outcome<()> {
    let bars: i32 = groups.iter().map(|(_, bars)| bars.len() as i32).sum();
    let height = TOP + BOTTOM + bars * BAR + groups.len() as i32 * GAP;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let x = |value: f64| LEFT + (place(value) * f64::from(WIDTH - LEFT - RIGHT)) as i32;
    area.draw(&Text::new(title.to_owned(), (10, 14), text(15, DARK, HPos::Left)))?;
    legend(&area, groups)?;
    for (value, label) in ticks {
        let line = if *value == 1.0 { DARK } else { GRID };
        area.draw(&PathElement::new([(x(*value), TOP - 6), (x(*value), height - BOTTOM)], line))?;
        area.draw(&Text::new(label.clone(), (x(*value), TOP - 14), text(11, DARK, HPos::Center)))?;
    }
    let base = if ticks[0].0 > 0.0 { x(1.0) } else { LEFT };
    let mut y = TOP;
    for (case, bars) in groups {
        let tall = bars.len() as i32 * BAR;
        area.draw(&Text::new(case.clone(), (LEFT - 8, y + tall / 2), text(12, DARK, HPos::Right)))?;
        for bar in bars {
            let (end, bottom, middle) = (x(bar.length), y + BAR - 1, y + BAR / 2);
            let colour = colour_of(&bar.threads);
            area.draw(&Rectangle::new([(base.min(end), y), (base.max(end), bottom)], colour.filled()))?;
            let mut right = base.max(end);
            if let Some((low, high)) = bar.quartiles {
                area.draw(&PathElement::new([(x(low), middle), (x(high), middle)], DARK))?;
                right = right.max(x(high));
            }
            if let Some(target) = bar.target {
                area.draw(&Rectangle::new([(x(target) - 1, y), (x(target) + 1, bottom)], MARK.filled()))?;
                right = right.max(x(target));
            }
            area.draw(&Text::new(bar.label.clone(), (right + 5, middle), text(10, DARK, HPos::Left)))?;
            y += BAR;
        }
        y += GAP;
    }
    area.present()?;
    Ok(())
}

fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, groups: &[Group]) -> Outcome<()> {
    let all = groups.iter().flat_map(|(_, bars)| bars.iter().map(|bar| bar.threads.clone()));
    let names: Vec<String> = all.map(|threads| format!("x {threads}")).collect();
    for (i, threads) in threads_of(names.iter().map(String::as_str)).into_iter().enumerate() {
        let (left, top) = (10 + 90 * i as i32, 32);
        area.draw(&Rectangle::new([(left, top), (left + 12, top + 9)], colour_of(threads).filled()))?;
        let style = text(12, DARK, HPos::Left);
        area.draw(&Text::new(threads_in_words(threads), (left + 17, top + 5), style))?;
    }
    Ok(())
}
