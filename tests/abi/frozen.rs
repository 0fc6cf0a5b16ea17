//! What has been published stays: exported symbols, layouts, constants, how the library is linked; and the header is
//! good C and C++.

use scaleRT::layout;
use scalert_tests::build::{self, Flags, root, run};
use scalert_tests::header::Header;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEADER: &str = include_str!("../../include/scaleRT.h");

fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).expect("a writable directory");
    directory
}

/// Compares with a checked-in file, or rewrites it.
fn expect_frozen(file: &str, now: &str) {
    let path = root().join("tests/abi").join(file);
    if std::env::var_os("SCALERT_REFRESH").is_some() {
        std::fs::write(&path, now).expect("a writable file");
    }
    let frozen = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> = frozen.lines().filter(|l| !now.lines().any(|n| n == *l)).collect();
    let new: Vec<&str> = now.lines().filter(|l| !frozen.lines().any(|f| f == *l)).collect();
    assert!(
        frozen == now,
        "{file} does not describe this build\n  frozen, but not there: {missing:#?}\n  there, but not frozen: {new:#?}\n\
         If the change is meant: SCALERT_REFRESH=1 cargo test -p scalert-tests --test abi"
    );
}

fn exported(library: &Path) -> Vec<String> {
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let mut names: Vec<String> =
        symbols.lines().map(|line| line.split(' ').next().expect("a name").to_string()).collect();
    names.sort();
    names
}

#[test]
fn exactly_the_header_is_exported_with_and_without_features() {
    let mut declared: Vec<String> = Header::read().functions.into_iter().map(|f| f.name).collect();
    declared.sort();
    let library = build::library();
    assert_eq!(exported(&library), declared, "exported by the library, and declared by the header");
    assert_eq!(exported(&build::library_with_panics()), declared, "exported with a feature");
    expect_frozen("exports.txt", &(declared.join("\n") + "\n"));
}

#[test]
fn the_library_has_its_soname_stays_loaded_and_needs_the_system_only() {
    let dynamic = run(Command::new("readelf").args(["--dynamic", "--wide"]).arg(build::library()));
    let bracketed = |tag: &str| -> Vec<String> {
        let lines = dynamic.lines().filter(|l| l.contains(tag));
        lines.map(|l| l.split(['[', ']']).nth(1).expect("a name in brackets").to_string()).collect()
    };
    assert_eq!(bracketed("(SONAME)"), ["libscaleRT.so.0"]);
    assert!(dynamic.lines().any(|l| l.contains("(FLAGS_1)") && l.contains("NODELETE")), "{dynamic}");
    assert!(!dynamic.contains("(TEXTREL)") && !dynamic.contains("(RPATH)") && !dynamic.contains("(RUNPATH)"));
    for needed in bracketed("(NEEDED)") {
        let system = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "ld-linux-x86-64.so.2"];
        assert!(system.contains(&needed.as_str()), "the library needs {needed}");
    }
}

#[test]
fn layouts_and_constants_are_as_published_and_as_rust_has_them() {
    let directory = scratch("frozen-layout");
    build::programs(&directory, &build::library(), &Flags::default(), &["layout"]);
    let in_c = run(&mut Command::new(directory.join("layout")));
    expect_frozen("layout.txt", &in_c);

    let mut constants: BTreeMap<&str, i64> = BTreeMap::new();
    let mut structs: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = "";
    for line in in_c.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["constant", name, value] => drop(constants.insert(name, value.parse().expect("a number"))),
            ["struct", name, _] => {
                current = name;
                structs.insert(name, format!("{line}\n"));
            }
            _ => structs.get_mut(current).expect("fields follow their struct").push_str(&format!("{line}\n")),
        }
    }
    for rust in layout::structs() {
        let mut text = format!("struct {} {}\n", rust.name, rust.size);
        for field in rust.fields {
            writeln!(text, "  {} {} {}", field.name, field.offset, field.size).expect("memory");
        }
        assert_eq!(structs.remove(rust.name).as_ref(), Some(&text), "as in C, and as in Rust");
    }
    assert!(structs.is_empty(), "structs that Rust does not have: {structs:?}");
    for (name, value) in layout::constants() {
        assert_eq!(constants.remove(name), Some(value), "{name} in C, and in Rust");
    }
    assert!(constants.is_empty(), "constants that Rust does not have: {constants:?}");
}

#[test]
fn the_header_compiles_alone_as_c99_and_as_cpp17_and_twice() {
    let directory = scratch("frozen-header");
    let once = "#include \"scaleRT.h\"\n";
    // Every initialiser, so that each is one of its type.
    let initialisers: String = Header::read()
        .records
        .iter()
        .filter(|r| r.is_sized())
        .map(|r| {
            let name = &r.name;
            let init = format!("{}_INIT", name.trim_end_matches("_t").to_uppercase());
            assert!(HEADER.contains(&format!("#define {init} ")), "{name} has no {init}");
            format!("{name} make_{name}(void);\n{name} make_{name}(void) {{ {name} x = {init}; return x; }}\n")
        })
        .collect();
    for (name, text) in [("once", once), ("twice", &once.repeat(2)), ("all", &format!("{once}{initialisers}"))] {
        let cxx = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        for (mut compiler, standard, extension) in
            [(build::cc(), "-std=c99", "c"), (Command::new(cxx), "-std=c++17", "cpp")]
        {
            let source = directory.join(format!("{name}.{extension}"));
            std::fs::write(&source, text).expect("a writable directory");
            compiler.args([standard, "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"]);
            run(compiler.arg(root().join("include")).arg(source));
        }
    }
}
