//! What goes wrong around the library: panics inside it, memory that runs out, threads and processes.

use scalert_tests::build::{self, Flags};
use std::path::{Path, PathBuf};
use std::process::Command;

fn program(name: &str, library: &Path) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}"));
    build::programs(&directory, library, &Flags::default(), &[name]);
    directory.join(name)
}

#[test]
fn a_panic_in_any_function_poisons_its_handle_only() {
    println!("{}", build::run(&mut Command::new(program("panics", &build::library_with_panics()))));
}

#[test]
fn memory_that_runs_out_leaks_nothing_and_breaks_nothing() {
    println!("{}", build::run(&mut Command::new(program("memory", &build::library()))));
}

#[test]
fn threads_give_the_same_bits_and_are_kept_apart() {
    println!("{}", build::run(&mut Command::new(program("threads", &build::library()))));
}

#[test]
fn a_forked_child_computes_what_its_parent_does() {
    println!("{}", build::run(&mut Command::new(program("processes", &build::library()))));
}

#[test]
fn the_library_may_be_loaded_and_closed_again() {
    let program = program("loading", &build::library());
    println!("{}", build::run(Command::new(&program).arg(program.with_file_name("libscaleRT.so.0"))));
}
