//! Compiles each `.cu` file for every target, where there is an nvcc, and embeds the results.
//!
//! nvcc is looked for in `$NVCC`, `$CUDA_HOME/bin`, `$PATH`, and in `target/cuda`, where the Makefile installs one.
//! `SCALERT_CUDA=0` builds without; `SCALERT_CUDA_TARGETS=ptx` (or `80,90a,ptx`) builds fewer targets, for development.
//! Results are kept in `target/cuda-objects`, by a hash of everything that they depend on, for all profiles.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// Compute capabilities with machine code of their own, as nvcc names them; and PTX for the rest.
const TARGETS: [&str; 7] = ["80", "86", "89", "90a", "100", "120", "ptx"];

/// Every rounding is written in the sources: nothing is contracted or approximated behind their back.
const FLAGS: [&str; 8] =
    ["-std=c++17", "-O3", "-fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false", "-Xptxas", "-v"];

fn main() {
    for name in ["NVCC", "CUDA_HOME", "PATH", "SCALERT_CUDA", "SCALERT_CUDA_TARGETS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=build.rs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out.join("resources.tsv"), "").expect("OUT_DIR is writable");
    let target = target_directory(&root);
    let images = match find_nvcc(&target) {
        Ok(nvcc) => build(&root, &target.join("cuda-objects"), &out, &nvcc),
        Err(reason) => format!("static IMAGES: &[Image] = &[];\nconst BUILT: Result<(), &str> = Err({reason:?});\n"),
    };
    fs::write(out.join("images.rs"), images).expect("OUT_DIR is writable");
}

/// The directory that the profiles of this build share.
fn target_directory(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("../target"), PathBuf::from)
}

struct Nvcc {
    program: PathBuf,
    version: String,
    /// Folder of libcu++ where it is apart.
    include: Option<PathBuf>,
}

fn find_nvcc(target: &Path) -> Result<Nvcc, String> {
    if env::var("SCALERT_CUDA").is_ok_and(|value| value == "0") {
        return Err("this library was built with CUDA=0, without CUDA kernels".to_owned());
    }
    let installed = target.join("cuda/nvidia/cu13/bin/nvcc");
    println!("cargo:rerun-if-changed={}", installed.display());
    let mut candidates: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    candidates.extend(env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc")));
    candidates.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|path| path.join("nvcc")));
    candidates.push(installed);
    let mut reason = "this library was built without nvcc, so without CUDA kernels".to_owned();
    for program in candidates {
        let Ok(output) = Command::new(&program).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(version) = text.lines().find_map(|line| line.split(", V").nth(1)) else { continue };
        if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 13) {
            reason = format!("this library was built with nvcc {version}, older than 13.0, so without CUDA kernels");
            continue;
        }
        let include = program.parent().map(|bin| bin.join("../include/cccl")).filter(|path| path.is_dir());
        return Ok(Nvcc { version: version.to_owned(), program, include });
    }
    println!("cargo:warning={reason}");
    Err(reason)
}

fn files(folder: &Path, ending: &str, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.insert(path);
        }
    }
}

/// Appends a source and the headers of ours that it includes, each once.
fn read_with_includes(source: &Path, headers: &BTreeSet<PathBuf>, included: &mut BTreeSet<PathBuf>, text: &mut String) {
    if !included.insert(source.to_owned()) {
        return;
    }
    let own = fs::read_to_string(source).expect("the sources are readable");
    for line in own.lines() {
        let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.split('"').next()) else { continue };
        let file = Path::new(name).file_name();
        for header in headers.iter().filter(|header| header.file_name() == file) {
            read_with_includes(header, headers, included, text);
        }
    }
    text.push_str(&own);
}

/// One compilation: a source for a target.
struct Job {
    source: PathBuf,
    target: String,
    object: PathBuf,
}

fn build(root: &Path, objects: &Path, out: &Path, nvcc: &Nvcc) -> String {
    fs::create_dir_all(objects).expect("the target directory is writable");
    let targets: Vec<String> = env::var("SCALERT_CUDA_TARGETS")
        .map_or_else(|_| TARGETS.map(str::to_owned).to_vec(), |list| list.split(',').map(str::to_owned).collect());
    assert!(targets.iter().any(|target| target == "ptx"), "SCALERT_CUDA_TARGETS must include ptx");
    let (mut sources, mut headers) = (BTreeSet::new(), BTreeSet::new());
    files(&root.join("src"), "cu", &mut sources);
    files(&root.join("src"), "cuh", &mut headers);
    let mut common = DefaultHasher::new();
    (&nvcc.version, FLAGS).hash(&mut common);
    let mut jobs = Vec::new();
    for source in &sources {
        let (mut text, mut included) = (String::new(), BTreeSet::new());
        read_with_includes(source, &headers, &mut included, &mut text);
        for target in &targets {
            let mut hash = common.clone();
            (&text, target).hash(&mut hash);
            let name = source.file_stem().expect("a file has a name").to_string_lossy();
            let object = objects.join(format!("{name}-{target}-{:016x}.zst", hash.finish()));
            jobs.push(Job { source: source.clone(), target: target.clone(), object });
        }
    }
    compile(root, nvcc, &jobs);
    fs::write(out.join("resources.tsv"), resources(nvcc, &jobs)).expect("OUT_DIR is writable");
    let mut text = "static IMAGES: &[Image] = &[\n".to_owned();
    for source in &sources {
        let name = source.file_stem().expect("a file has a name").to_string_lossy();
        let (mut cubins, mut ptx) = (String::new(), String::new());
        for job in jobs.iter().filter(|job| job.source == *source) {
            let bytes = format!("include_bytes!({:?})", job.object);
            if job.target == "ptx" {
                ptx = bytes;
            } else {
                let number = job.target.trim_end_matches(char::is_alphabetic);
                write!(cubins, "({number}, {}, {bytes}), ", number != job.target).expect("a string grows");
            }
        }
        writeln!(text, "    Image {{ name: {name:?}, cubins: &[{cubins}], ptx: {ptx} }},").expect("a string grows");
    }
    text.push_str("];\nconst BUILT: Result<(), &str> = Ok(());\n");
    text
}

/// Runs the jobs whose result is not there yet, as many at a time as cargo allows.
fn compile(root: &Path, nvcc: &Nvcc, jobs: &[Job]) {
    let missing: Vec<&Job> = jobs.iter().filter(|job| !job.object.exists()).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).min(missing.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = compile_one(root, nvcc, job) {
                        failures.lock().expect("no worker panics").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no worker panics");
    assert!(failures.is_empty(), "nvcc failed:\n{}", failures.join("\n"));
}

fn compile_one(root: &Path, nvcc: &Nvcc, job: &Job) -> Result<(), String> {
    let raw = job.object.with_extension(format!("{}.raw", std::process::id()));
    let mut command = Command::new(&nvcc.program);
    if job.target == "ptx" {
        command.args(["-ptx", "-arch=compute_80"]);
    } else {
        command.args(["-cubin", &format!("-arch=sm_{}", job.target)]);
    }
    command.args(FLAGS).arg("-I").arg(root.join("src/backend/cuda/include"));
    command.args(nvcc.include.iter().flat_map(|folder| [Path::new("-I"), folder]));
    let output =
        command.arg(&job.source).arg("-o").arg(&raw).output().map_err(|error| format!("{command:?}: {error}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?}\n{}{log}", String::from_utf8_lossy(&output.stdout)));
    }
    let write = |path: &Path, bytes: &[u8]| {
        let part = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, bytes).and_then(|()| fs::rename(&part, path)).map_err(|error| error.to_string())
    };
    let bytes = fs::read(&raw).map_err(|error| error.to_string())?;
    let compressed = zstd::encode_all(bytes.as_slice(), 19).map_err(|error| error.to_string())?;
    // ptxas's account of registers, shared memory and spills, for the resource table.
    write(&job.object.with_extension("log"), log.as_bytes())?;
    write(&job.object, &compressed)?;
    fs::remove_file(&raw).map_err(|error| error.to_string())
}

/// What each kernel takes of a multiprocessor, a row per kernel and a column per target: registers/static shared bytes/
/// stack bytes/spilled bytes.
fn resources(nvcc: &Nvcc, jobs: &[Job]) -> String {
    let mut rows: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    for job in jobs.iter().filter(|job| job.target != "ptx") {
        let log = fs::read_to_string(job.object.with_extension("log")).expect("written beside the object");
        let (mut kernel, mut stack, mut spilled) = (None, 0, 0);
        for line in log.lines() {
            if let Some(name) = line.split("Compiling entry function '").nth(1) {
                kernel = name.split('\'').next().map(str::to_owned);
            } else if line.contains("bytes stack frame") && kernel.is_some() {
                let numbers = numbers(line);
                (stack, spilled) = (numbers[0], numbers[1] + numbers[2]);
            } else if let (true, Some(name)) = (line.contains(" registers"), kernel.clone()) {
                let before = |unit: &str| line.split(unit).next().and_then(|text| numbers(text).last().copied());
                let registers = before(" registers").unwrap_or(0);
                let shared = if line.contains(" bytes smem") { before(" bytes smem").unwrap_or(0) } else { 0 };
                let cell = format!("{registers}/{shared}/{stack}/{spilled}");
                rows.entry(name).or_default().insert(&job.target, cell);
                kernel = None;
            }
        }
    }
    let targets: Vec<&str> = TARGETS.into_iter().filter(|t| jobs.iter().any(|job| job.target == *t)).collect();
    let targets: Vec<&str> = targets.into_iter().filter(|target| *target != "ptx").collect();
    let mut text = format!("nvcc {}\t{}\n", nvcc.version, targets.join("\t"));
    for (kernel, cells) in rows {
        let cells: Vec<&str> = targets.iter().map(|target| cells.get(target).map_or("-", String::as_str)).collect();
        writeln!(text, "{kernel}\t{}", cells.join("\t")).expect("a string grows");
    }
    text
}

fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}
