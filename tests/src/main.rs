//! Builds the C programs of the ABI and fault tests against a library: for `tests/asan.sh` and `tests/valgrind.sh`.
//!
//! `scalert-cases LIBRARY DIRECTORY PROGRAM... [-- FLAG...]`

use scalert_tests::build;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (arguments, flags) = match arguments.iter().position(|a| a == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (&arguments[..], &[][..]),
    };
    let [library, directory, programs @ ..] = arguments else {
        panic!("usage: scalert-cases LIBRARY DIRECTORY PROGRAM... [-- FLAG...]");
    };
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    build::programs(Path::new(directory), Path::new(library), flags, &programs);
}
