//! Building the C programs of the tests against the library.

use crate::generate;
use crate::header::Header;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Sources that every program is linked with: worlds and fixtures; the generated tables come on top.
const SHARED: [&str; 5] =
    ["abi/world.c", "abi/fixtures.c", "abi/fixtures_operations.c", "abi/fixtures_comm.c", "abi/fixtures_state.c"];

/// The C programs: name, source, whether it is linked with the fixtures and the library.
pub const PROGRAMS: [(&str, &str, bool); 9] = [
    ("layout", "layout.c", false),
    ("hostile", "abi/hostile.c", true),
    ("order", "abi/order.c", true),
    ("panics", "faults/panics.c", true),
    ("memory", "faults/memory.c", true),
    ("threads", "faults/threads.c", true),
    ("processes", "faults/processes.c", true),
    ("loading", "faults/loading.c", false),
    ("overflow", "faults/overflow.c", true),
];

/// Runs a command; panics with its output when it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// The C compiler.
pub fn cc() -> Command {
    Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
}

/// Builds the shared library that ships, in the release profile, and gives its path.
pub fn library() -> PathBuf {
    cargo_build(&["--release"]);
    root().join("target/release/libscaleRT.so")
}

/// Builds a library in which any function can be made to panic: unoptimised, in a target directory of its own.
pub fn library_with_panics() -> PathBuf {
    let target = root().join("target/faults");
    cargo_build(&["--features", "panic-injection", "--target-dir", target.to_str().expect("UTF-8")]);
    target.join("debug/libscaleRT.so")
}

fn cargo_build(arguments: &[&str]) {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run(Command::new(cargo).current_dir(root()).args(["build", "--quiet", "--package", "scalert-ffi"]).args(arguments));
}

/// How C programs are compiled and linked, beyond what all are.
#[derive(Default)]
pub struct Flags {
    /// For the compiler.
    pub compile: Vec<String>,
    /// For the linker.
    pub link: Vec<String>,
}

/// Builds C programs in `directory` against `library`, which is linked to there under its SONAME.
pub fn programs(directory: &Path, library: &Path, flags: &Flags, names: &[&str]) {
    std::fs::create_dir_all(directory).expect("a writable directory");
    let directory = &std::fs::canonicalize(directory).expect("it was created");
    let library = std::fs::canonicalize(library).expect("the library is built");
    for name in ["libscaleRT.so.0", "libscaleRT.so"] {
        let link = directory.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&library, link).expect("a new link");
    }
    let tests = root().join("tests");
    let fixtures: String =
        SHARED.iter().map(|f| std::fs::read_to_string(tests.join(f)).expect("the fixtures are there")).collect();
    for (name, text) in generate::files(&Header::read(), &fixtures) {
        std::fs::write(directory.join(name), text).expect("a writable directory");
    }
    let object = |source: &Path| {
        let object = directory.join(source.file_stem().expect("a name")).with_extension("o");
        let mut cc = cc();
        cc.args(["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-pedantic", "-Wall", "-Wextra", "-Werror", "-g", "-O1"]);
        cc.args(&flags.compile).arg("-c").arg(source).arg("-o").arg(&object);
        run(cc.arg("-I").arg(root().join("include")).arg("-I").arg(tests.join("abi")).arg("-I").arg(directory));
        object
    };
    let mut shared: Vec<PathBuf> = SHARED.iter().map(|f| object(&tests.join(f))).collect();
    shared.push(object(&directory.join("functions.c")));
    for (name, source, is_linked) in PROGRAMS.iter().filter(|p| names.contains(&p.0)) {
        let source = if *name == "layout" { directory.join(source) } else { tests.join(source) };
        let mut link = cc();
        link.arg(object(&source)).arg("-o").arg(directory.join(name));
        if *is_linked {
            link.args(&shared).arg("-L").arg(directory).arg("-lscaleRT");
            link.arg(format!("-Wl,-rpath,{}", directory.display()));
        }
        run(link.args(&flags.link).args(["-lpthread", "-ldl", "-lm"]));
    }
}
