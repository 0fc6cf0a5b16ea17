//! The C programs: hostile calls, and calls out of order.

use scalert_tests::build::{self, Flags};
use std::path::{Path, PathBuf};
use std::process::Command;

fn program(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("abi-{name}"));
    build::programs(&directory, &build::library(), &Flags::default(), &[name]);
    directory.join(name)
}

#[test]
fn hostile_calls_are_refused_and_change_nothing() {
    println!("{}", build::run(&mut Command::new(program("hostile"))));
}

#[test]
fn calls_out_of_order_are_refused_and_change_nothing() {
    println!("{}", build::run(&mut Command::new(program("order"))));
}
