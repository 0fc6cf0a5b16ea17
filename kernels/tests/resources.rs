//! What each device kernel takes of a multiprocessor is as `kernels/resources.tsv` says, and none spills registers.
//!
//! A change that moves a figure updates the table with `make resources`, so that the commit shows it. Figures of another
//! nvcc than the table's differ without a fault; spills do not pass with any.
#![allow(missing_docs)]

use std::path::Path;

const BUILT: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.tsv"));

fn rows(table: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    table.lines().skip(1).map(|line| {
        let mut cells = line.split('\t');
        (cells.next().unwrap_or_default(), cells.collect())
    })
}

#[test]
fn no_kernel_spills() {
    for (kernel, cells) in rows(BUILT) {
        for cell in cells {
            assert!(cell == "-" || cell.ends_with("/0"), "{kernel} spills registers: {cell}");
        }
    }
}

#[test]
fn the_table_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources.tsv");
    if std::env::var("SCALERT_UPDATE_RESOURCES").is_ok_and(|value| value == "1") {
        std::fs::write(&path, BUILT).unwrap();
    }
    let table = std::fs::read_to_string(&path).unwrap();
    let header = |table: &str| table.lines().next().unwrap_or_default().to_owned();
    if BUILT.is_empty() || header(BUILT) != header(&table) {
        println!("not compared: the table is of '{}', this build of '{}'", header(&table), header(BUILT));
        return;
    }
    let (mut old, new): (std::collections::BTreeMap<_, _>, Vec<_>) = (rows(&table).collect(), rows(BUILT).collect());
    for (kernel, cells) in new {
        let before = old.remove(kernel);
        assert_eq!(before.as_ref(), Some(&cells), "{kernel} changed (registers/shared/stack/spills): make resources");
    }
    assert!(old.is_empty(), "no such kernels any more: {:?}; make resources", old.keys());
}
