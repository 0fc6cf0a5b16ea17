//! Builds the C programs of the ABI and fault tests against a library: for `tests/asan.sh` and `tests/valgrind.sh`.
//!
//! `scalert-cases LIBRARY DIRECTORY PROGRAM... [-- COMPILER_FLAG... [-- LINKER_FLAG...]]`

use scalert_tests::build::{self, Flags};
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut parts = arguments.split(|a| a == "--");
    let Some([library, directory, programs @ ..]) = parts.next() else {
        panic!("usage: scalert-cases LIBRARY DIRECTORY PROGRAM... [-- COMPILER_FLAG... [-- LINKER_FLAG...]]");
    };
    let mut flags = || parts.next().unwrap_or_default().to_vec();
    let flags = Flags { compile: flags(), link: flags() };
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    build::programs(Path::new(directory), Path::new(library), &flags, &programs);
}
